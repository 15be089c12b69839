"""Bases whose weights are stored as small floats with scales: decoded into plain ones, and loaded as a plain model.

    q_proj.weight (float8), q_proj.weight_scale_inv    as stored
    q_proj.weight (bfloat16), q_proj.weight_scale_inv  as loaded: the product, and the scales as they are stored

Scales stay in the model as buffers, so that they are read and proved like any tensor. Codes do not: what they became
is compared with what another process makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from app.errors import ModelError
from app.evidence.format import block_scaled
from app.evidence.format.quantised import Quantisation
from worker.trainer.freeze.inventory import DTYPE_CODES
from worker.trainer.freeze.quantised_parts import mark_decoded
from worker.trainer.models import stored_dtypes

_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


class DecodedLinear(nn.Linear):
    """A linear layer whose weight was decoded while loading. It computes as any other."""


@dataclass(frozen=True, slots=True)
class DecodedLayout:
    """Every stored tensor by name, on the meta device where names and shapes are asked for alone."""

    tensors: Mapping[str, Tensor]
    codes: Mapping[str, str]
    block: tuple[int, int]

    def plain_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors that the files would hold, were the model not quantised. ModelError for one that is no weight."""
        plain = {name: tensor for name, tensor in self.tensors.items() if not block_scaled.is_beside(name)}
        for name in filter(self._is_codes, plain):
            plain[name] = self._decoded(name, dtype)
        return plain

    def apply(self, model: nn.Module) -> None:
        """Gives the model, loaded from plain tensors, the scales beside its decoded weights, and notes which these are.

        ModelError where a weight is no weight of a layer: its scales would have no place.
        """
        left = set(filter(self._is_codes, self.tensors))
        for live, pieces in stored_dtypes.stored_pieces(model, self.codes).items():
            path, _, leaf = live.rpartition(".")
            module, (stored, rows) = model.get_submodule(path), pieces[0]
            if stored not in left or rows is not None or not isinstance(module, nn.Linear):
                continue
            left.remove(stored)
            module.__class__ = DecodedLinear
            module.register_buffer(block_scaled.SCALE, self.tensors[block_scaled.scale_of(stored)])
            mark_decoded(module, leaf)
        if left:
            message = (
                f"{min(left)!r} is stored in float8, and in the model it is no weight of a linear layer: experts that "
                "are joined while loading, for one; take the plain weights (bfloat16)"
            )
            raise ModelError(message, param="model", code="quantised_model")

    def notes(self, dtype: torch.dtype) -> tuple[str, ...]:
        """What a job's log says of it."""
        coded = [tensor for name, tensor in self.tensors.items() if self._is_codes(name)]
        size, wide = sum(map(torch.numel, coded)), str(dtype).removeprefix("torch.")
        note = f"{len(coded)} weights are stored in float8 and computed with in {wide}"
        return (f"{note}: {size * dtype.itemsize:,} bytes in memory, {size:,} as stored",)

    def _is_codes(self, name: str) -> bool:
        return block_scaled.is_codes(name, self.codes)

    def _decoded(self, name: str, dtype: torch.dtype) -> Tensor:
        scale = block_scaled.scale_of(name)
        codes, scales = self.tensors[name], self.tensors[scale]
        self._refuse_other_shape(name, codes, scales)
        if not scales.is_meta and not bool(((scales > 0) & scales.isfinite()).all()):
            raise _not_whole(f"{scale!r} holds a scale that is no positive number")
        weight = decode(codes, scales, self.block, dtype)
        if not weight.is_meta and not bool(weight.isfinite().all()):
            raise _not_whole(f"{name!r} holds codes of NaN, or is infinite with its scales")
        return weight

    def _refuse_other_shape(self, name: str, codes: Tensor, scales: Tensor) -> None:
        """Blocks that are cut off at an edge are refused: loaders take them for smaller blocks of one size."""
        rows, columns = self.block
        if codes.dim() != 2 or codes.shape[0] % rows or codes.shape[1] % columns:
            message = (
                f"{name!r} is {list(codes.shape)}, which blocks of {rows} by {columns} do not fill: transformers would "
                "decode it by blocks of another size; take the plain weights (bfloat16)"
            )
            raise ModelError(message, param="model", code="quantised_model")
        expected = (codes.shape[0] // rows, codes.shape[1] // columns)
        if tuple(scales.shape) != expected:
            scale = block_scaled.scale_of(name)
            raise _not_whole(f"{scale!r} is {list(scales.shape)}, and for {name!r} it has to be {list(expected)}")


def read(folder: Path, codes: Mapping[str, str], quantisation: Quantisation, *, meta: bool = False) -> DecodedLayout:
    """The base in `folder`; with `meta` from headers alone. `codes` are the dtypes by name."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensors[name] = _empty(file.get_slice(name), codes[name]) if meta else file.get_tensor(name)
    assert quantisation.block is not None
    return DecodedLayout(tensors, codes, quantisation.block)


def decode(codes: Tensor, scales: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Codes times the scale of their block, in float32, rounded once to `dtype`."""
    rows, columns = block
    wide = scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return (codes.float() * wide).to(dtype)


def _empty(header: object, code: str) -> Tensor:
    return torch.empty(tuple(header.get_shape()), dtype=_DTYPES[code], device="meta")  # type: ignore[attr-defined]


def _not_whole(problem: str) -> ModelError:
    return ModelError(f"the model's files are damaged: {problem}", param="model", code="quantised_model")
