"""Bases whose weights are stored as small floats with scales: decoded into plain ones, and loaded as a plain model.

    q_proj.weight (float8), q_proj.weight_scale_inv       as stored
    q_proj.weight (bfloat16), q_proj.weight_scale_inv     as loaded: the product, and the scales as they are stored
    experts.down_proj_blocks, experts.down_proj_scales    as stored
    experts.down_proj (bfloat16), experts.down_proj_scales

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
from app.evidence.format.block_scaled import FP8
from app.evidence.format.quantised import Quantisation
from worker.trainer.freeze.inventory import DTYPE_CODES
from worker.trainer.freeze.quantised_parts import mark_decoded
from worker.trainer.models import stored_dtypes

#: By codes of 4 bits: a sign, two bits of an exponent and one of a fraction.
_MXFP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_BYTES, _NO_EXPONENT = 16, 0xFF
_EMBEDDING, _EXPERTS = "DecodedEmbedding", "DecodedExperts"
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


class DecodedLinear(nn.Linear):
    """A linear layer whose weight was decoded while loading. It computes as any other."""


@dataclass(frozen=True, slots=True)
class DecodedLayout:
    """Every stored tensor by name, on the meta device where names and shapes are asked for alone."""

    tensors: dict[str, Tensor]
    codes: Mapping[str, str]
    form: Quantisation
    held: int  # bytes of codes

    def plain_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors that the files would hold, were the model not quantised. ModelError for one that is no weight.

        Each weight's codes are let go of once it is decoded, so that not all of both are in memory.
        """
        plain: dict[str, Tensor] = {}
        for name in list(self.tensors):
            if self._is_codes(name):
                plain[block_scaled.plain_of(name)] = self._decoded(name, dtype)
                del self.tensors[name]
            elif not block_scaled.is_beside(name):
                plain[name] = self.tensors[name]
        return plain

    def apply(self, model: nn.Module) -> None:
        """Gives the model, loaded from plain tensors, the scales beside its decoded weights, and notes which these are.

        ModelError where a weight is made of codes that are not found in it by name: their scales would have no place.
        """
        left = set(filter(self._is_codes, self.codes))
        for live, pieces in stored_dtypes.stored_pieces(model, self.codes).items():
            stored = {name for name, _ in pieces}
            path, _, leaf = live.rpartition(".")
            joined = any(rows is not None for _, rows in pieces)
            if not stored <= left or (joined and not all(name.startswith(f"{path}.") for name in stored)):
                continue  # a plain weight, or what is refused below
            left -= stored
            module = model.get_submodule(path)
            _as_decoded(module)
            mark_decoded(module, leaf)
            for scale in map(block_scaled.scale_of, stored):
                # Scales of experts stay apart where these are joined: `0.up_proj.weight_scale_inv`, as files name them.
                inside = scale.removeprefix(f"{path}.") if joined else scale.rpartition(".")[2]
                module._buffers[inside] = self.tensors[scale]
        if left:
            message = (
                f"{min(left)!r} is stored as codes, and transformers gives it another name, or joins it with plain "
                "weights, while loading, which is not read so; take the plain weights (bfloat16)"
            )
            raise ModelError(message, param="model", code="quantised_model")

    def notes(self, dtype: torch.dtype) -> tuple[str, ...]:
        """What a job's log says of it."""
        count, wide = sum(map(self._is_codes, self.codes)), str(dtype).removeprefix("torch.")
        size = self.held * dtype.itemsize * (1 if self.form.method == FP8 else 2)
        note = f"{count} weights are stored in {self.form.kind} and computed with in {wide}"
        return (f"{note}: {size:,} bytes in memory, {self.held:,} as stored",)

    def _is_codes(self, name: str) -> bool:
        return block_scaled.is_codes(name, self.codes)

    def _decoded(self, name: str, dtype: torch.dtype) -> Tensor:
        scale = block_scaled.scale_of(name)
        codes, scales = self.tensors[name], self.tensors[scale]
        if self.form.block is not None:
            _refuse_cut_blocks(name, codes, self.form.block)
        elif codes.dim() != 4 or codes.shape[-1] != _BYTES:
            raise _not_whole(f"{name!r} is {list(codes.shape)}, and codes of experts are in blocks of {_BYTES} bytes")
        expected = _shape_of_scales(codes, self.form.block)
        if tuple(scales.shape) != expected:
            raise _not_whole(f"{scale!r} is {list(scales.shape)}, and for {name!r} it has to be {list(expected)}")
        if not scales.is_meta and not _are_scales(scales):
            raise _not_whole(f"{scale!r} holds a scale that is no positive number")
        weight = decode(codes, scales, self.form.block, dtype)
        if not weight.is_meta and not bool(weight.isfinite().all()):
            raise _not_whole(f"{name!r} holds codes of NaN, or is infinite with its scales")
        return weight


def read(folder: Path, codes: Mapping[str, str], quantisation: Quantisation, *, meta: bool = False) -> DecodedLayout:
    """The base in `folder`; with `meta` from headers alone. `codes` are the dtypes by name."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensors[name] = _empty(file.get_slice(name), codes[name]) if meta else file.get_tensor(name)
    held = sum(tensor.nbytes for name, tensor in tensors.items() if block_scaled.is_codes(name, codes))
    return DecodedLayout(tensors, codes, quantisation, held)


def decode(codes: Tensor, scales: Tensor, block: tuple[int, int] | None, dtype: torch.dtype) -> Tensor:
    """Codes times the scale of their block, in float32, rounded once to `dtype`. Without `block`, they are MXFP4's."""
    if block is None:
        return _decode_mxfp4(codes, scales, dtype)
    rows, columns = block
    wide = scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return (codes.float() * wide).to(dtype)


def _decode_mxfp4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """(experts, outputs, blocks, 16 bytes) with (experts, outputs, blocks) to (experts, inputs, outputs).

    An expert at a time: in float32 all of them would take four times the memory of the weight.
    """
    experts, outputs, blocks, width = codes.shape
    weight = torch.empty((experts, 2 * blocks * width, outputs), dtype=dtype, device=codes.device)
    values, byte = torch.tensor(_MXFP4_VALUES), torch.arange(256)
    pairs = torch.stack((values[byte & 0xF], values[byte >> 4]), -1).to(codes.device)  # the low half comes first
    for number in range(experts):
        powers = scales[number].view(torch.float8_e8m0fnu).float()
        found = pairs[codes[number].long()].flatten(-2)
        weight[number] = (found * powers.unsqueeze(-1)).flatten(-2).T.to(dtype)
    return weight


def _shape_of_scales(codes: Tensor, block: tuple[int, int] | None) -> tuple[int, ...]:
    return tuple(codes.shape[:-1]) if block is None else (codes.shape[0] // block[0], codes.shape[1] // block[1])


def _are_scales(scales: Tensor) -> bool:
    """Whether each scale is a positive number. One that is stored as an exponent is none where all its bits are set."""
    fine = scales != _NO_EXPONENT if scales.dtype == torch.uint8 else (scales > 0) & scales.isfinite()
    return bool(fine.all())


def _refuse_cut_blocks(name: str, codes: Tensor, block: tuple[int, int]) -> None:
    """Blocks that are cut off at an edge are refused: loaders take them for smaller blocks of one size."""
    rows, columns = block
    if codes.dim() != 2 or codes.shape[0] % rows or codes.shape[1] % columns:
        message = (
            f"{name!r} is {list(codes.shape)}, which blocks of {rows} by {columns} do not fill: transformers would "
            "decode it by blocks of another size; take the plain weights (bfloat16)"
        )
        raise ModelError(message, param="model", code="quantised_model")


def _as_decoded(module: nn.Module) -> None:
    """Names the module's class for what it holds. It computes as before."""
    if isinstance(module, nn.Linear):
        module.__class__ = DecodedLinear
        return
    name = _EMBEDDING if isinstance(module, nn.Embedding) else _EXPERTS
    if type(module).__name__ != name:
        module.__class__ = type(name, (type(module),), {"__module__": __name__})


def _empty(header: object, code: str) -> Tensor:
    return torch.empty(tuple(header.get_shape()), dtype=_DTYPES[code], device="meta")  # type: ignore[attr-defined]


def _not_whole(problem: str) -> ModelError:
    return ModelError(f"the model's files are damaged: {problem}", param="model", code="quantised_model")
