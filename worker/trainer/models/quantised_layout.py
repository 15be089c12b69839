"""A quantised base's tensors without their bytes: names and shapes as the loaded model will have them.

transformers reads descriptions of quantised weights while it loads, which the meta device has none of. So the plain
model is laid out there, and then its quantised layers get the tensors that the files have for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from app.errors import ModelError
from app.evidence.format.compressed import COMPRESSED_TENSORS
from app.evidence.format.quantised import Quantisation, is_scale, quantised_weights, scales
from worker.trainer.freeze.inventory import DTYPE_CODES
from worker.trainer.freeze.quantised_parts import lay_out
from worker.trainer.models import decoded_layout, names, packed_layout
from worker.trainer.models.decoded_layout import DecodedLayout
from worker.trainer.models.packed_layout import PackedLayout

_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}
_DESCRIPTION = "weight.quant_state."


@dataclass(frozen=True, slots=True)
class QuantisedLayout:
    """Every stored tensor on the meta device, by name, and the shapes of the quantised weights."""

    tensors: Mapping[str, Tensor]
    unpacked: Mapping[str, tuple[int, ...]]

    def plain_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors that the files would hold, were the model not quantised."""
        weights = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in self.unpacked.items()}
        return {name: weights.get(name, tensor) for name, tensor in self.tensors.items() if not is_scale(name)}

    def apply(self, model: nn.Module) -> None:
        """Gives the quantised layers of the plain `model` their tensors and the name of their class."""
        prefix, of_module = names.prefix_of(model), scales(self.tensors)
        for path, module in list(model.named_modules()):
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            stored = names.name_in_base(f"{path}.weight", prefix, self.tensors)
            if stored not in self.unpacked or stored is None:
                continue
            beside = stored.removesuffix("weight")
            parts = {leaf: self.tensors[f"{beside}{leaf}"] for leaf in sorted(of_module[beside])}
            kind = "Linear8bitLt" if "SCB" in parts else "Linear4bit"
            lay_out(module, kind, self.tensors[stored], parts, unpacked=self.unpacked[stored])


def read(
    folder: Path, codes: Mapping[str, str], quantisation: Quantisation
) -> QuantisedLayout | PackedLayout | DecodedLayout:
    """The layout of the base in `folder`, from headers and descriptions. `codes` are the dtypes by name."""
    if quantisation.decoded:
        return decoded_layout.read(folder, codes, quantisation, meta=True)
    if quantisation.method == COMPRESSED_TENSORS:
        return packed_layout.read(folder, codes)
    tensors: dict[str, Tensor] = {}
    unpacked: dict[str, tuple[int, ...]] = {}
    weights = quantised_weights(codes)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                shape = tuple(file.get_slice(name).get_shape())
                tensors[name] = torch.empty(shape, dtype=_DTYPES[codes[name]], device="meta")
                weight, found, _ = name.partition(_DESCRIPTION)
                if found:
                    unpacked[f"{weight}weight"] = _shape(file.get_tensor(name), name)
    return QuantisedLayout(tensors, {name: unpacked.get(name, tuple(tensors[name].shape)) for name in weights})


def _shape(description: Tensor, name: str) -> tuple[int, ...]:
    """The shape in a description, which is JSON in bytes."""
    try:
        content: Any = json.loads(bytes(description.numpy()))
        return tuple(int(size) for size in content["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name!r} does not describe a quantised weight: {error}", param="model") from error
