"""Tensors of a base that compressed-tensors packed, without their bytes: names and shapes as in the loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from app.errors import ModelError
from app.evidence.format.compressed import BESIDE, CODES, is_beside, is_codes
from worker.trainer.freeze.inventory import DTYPE_CODES
from worker.trainer.freeze.quantised_parts import lay_out_packed
from worker.trainer.models import names

_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}
_SHAPE = "weight_shape"


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Every stored tensor on the meta device, by name, and the shapes of the packed weights by their plain names."""

    tensors: Mapping[str, Tensor]
    unpacked: Mapping[str, tuple[int, ...]]

    def plain_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors that the files would hold, were the model not quantised."""
        plain = {name: each for name, each in self.tensors.items() if not (is_codes(name) or is_beside(name))}
        return plain | {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in self.unpacked.items()}

    def apply(self, model: nn.Module) -> None:
        """Gives the quantised layers of the plain `model` their tensors and the name of their class."""
        prefix = names.prefix_of(model)
        for path, module in list(model.named_modules()):
            weight = names.name_in_base(f"{path}.weight", prefix, self.unpacked)
            if not isinstance(module, nn.Linear) or weight is None:
                continue
            beside = weight.removesuffix("weight")
            leaves = [leaf for leaf in (CODES, *BESIDE) if f"{beside}{leaf}" in self.tensors]
            parts = {leaf: self.tensors[f"{beside}{leaf}"] for leaf in leaves}
            lay_out_packed(module, parts, unpacked=self.unpacked[weight])


def read(folder: Path, codes: Mapping[str, str]) -> PackedLayout:
    """The layout of the base in `folder`. `codes` are the dtypes by name. ModelError for a wrong shape."""
    tensors: dict[str, Tensor] = {}
    unpacked: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                shape = tuple(file.get_slice(name).get_shape())
                tensors[name] = torch.empty(shape, dtype=_DTYPES[codes[name]], device="meta")
                if name.rpartition(".")[2] == _SHAPE:
                    unpacked[f"{name.removesuffix(_SHAPE)}weight"] = _shape(file.get_tensor(name), name)
    return PackedLayout(tensors, unpacked)


def _shape(stored: Tensor, name: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in stored.flatten().tolist())
    if len(sizes) != 2 or min(sizes) < 1:
        raise ModelError(f"{name!r} is not the shape of a matrix: {sizes}", param="model", code="missing_tensors")
    return sizes
