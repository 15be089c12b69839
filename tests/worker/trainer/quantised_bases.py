"""Tiny bases that bitsandbytes has quantised, as transformers saves them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

from tests.worker.trainer import tiny

KINDS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
LAYER = "model.layers.0.self_attn.q_proj"


def llama(folder: Path, kind: str = "nf4", **changes: Any) -> Path:
    """A bfloat16 decoder whose linear layers are quantised, 64 wide: a block of 4-bit codes has 64."""
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    return _quantise(folder, kind, AutoModelForCausalLM, lambda place: tiny.llama(place, **sizes | changes))


def bert(folder: Path, kind: str = "nf4", **changes: Any) -> Path:
    """An encoder with biases whose linear layers are quantised."""
    return _quantise(folder, kind, AutoModel, lambda place: tiny.bert(place, **{"hidden_size": 64} | changes))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of a base's file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def reconfigure(folder: Path, **values: Any) -> None:
    """Changes keys of a base's quantization_config; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    kept = {**content["quantization_config"], **values}
    content["quantization_config"] = {key: value for key, value in kept.items() if value is not None}
    path.write_text(json.dumps(content))


def _quantise(folder: Path, kind: str, auto: Any, plain: Callable[[Path], Path]) -> Path:
    source = folder / "plain"
    plain(source)
    config = BitsAndBytesConfig(**KINDS[kind])
    model = auto.from_pretrained(source, quantization_config=config, device_map="cpu", dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for path in source.iterdir():
        if not (folder / path.name).exists():
            shutil.move(path, folder / path.name)
    shutil.rmtree(source)
    return folder
