"""Tiny bases that compressed-tensors has packed, as its own tools save them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from tests.worker.trainer import tiny

#: Arguments of a weight's form, by the name that its publishers give it.
KINDS: dict[str, dict[str, Any]] = {
    "W4A16": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16},
    "W8A16": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
}
LAYER = "model.layers.0.self_attn.q_proj"


def llama(folder: Path, kind: str = "W4A16", **changes: Any) -> Path:
    """A decoder whose linear layers are packed, apart from its head."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    source = folder / "plain"
    tiny.llama(source, **changes)
    model = AutoModelForCausalLM.from_pretrained(source)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**KINDS[kind]))
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status=QuantizationStatus.INITIALIZED
    )
    apply_quantization_config(model, config, show_progress=False)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            _measure(module)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    for path in source.iterdir():
        if not (folder / path.name).exists():
            shutil.move(path, folder / path.name)
    shutil.rmtree(source)
    return folder


def reconfigure(folder: Path, **values: Any) -> None:
    """Changes keys of a base's quantization_config."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["quantization_config"] |= values
    path.write_text(json.dumps(content))


def _measure(module: Any) -> None:
    """Sets the scales of a layer by the largest weight of each group."""
    args = module.quantization_scheme.weights
    groups = module.weight.data.unflatten(1, (-1, args.group_size or module.weight.shape[1]))
    largest = groups.abs().amax(-1)
    module.weight_scale.data = (2 * largest / (2**args.num_bits - 1)).to(module.weight_scale.dtype)
