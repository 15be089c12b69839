"""Bases whose weights are stored as codes that loading decodes: decoded into plain ones, and loaded as a plain model.

    q_proj.weight (float8), q_proj.weight_scale_inv       as stored
    q_proj.weight (bfloat16), q_proj.weight_scale_inv     as loaded: the product, and the scales as they are stored
    experts.down_proj_blocks, experts.down_proj_scales    as stored
    experts.down_proj (bfloat16), experts.down_proj_scales
    q_proj.qweight, q_proj.qzeros, q_proj.scales          as stored
    q_proj.weight (float16), q_proj.qzeros, q_proj.scales

What is beside codes stays in the model as buffers, so that scales and zero points are read and proved like any
tensor. Codes do not: what they became is compared with what another process makes of them.
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
from app.evidence.format.block_scaled import Decoding
from app.evidence.format.quantised import Quantisation
from worker.trainer.freeze.inventory import DTYPE_CODES
from worker.trainer.freeze.quantised_parts import mark_decoded
from worker.trainer.models import decoding, stored_dtypes

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
    by: Mapping[str, Decoding]  # how each weight is decoded, by the name of its codes
    made: int  # how many numbers that gives
    held: int  # bytes of codes
    cut: tuple[str, ...]  # codes whose blocks are cut off at the weight's edge

    def plain_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors that the files would hold, were the model not quantised. ModelError for one that is no weight.

        Each weight's codes are let go of once it is decoded, so that not all of both are in memory.
        """
        plain: dict[str, Tensor] = {}
        beside = {each for name in filter(self._is_codes, self.codes) for each in self._beside(name)}
        for name in list(self.tensors):
            if self._is_codes(name):
                parts = {each: self.tensors[each] for each in self._beside(name)}
                weight = decoding.decoded(name, self.tensors[name], parts, self.by[name], dtype)
                plain[block_scaled.plain_of(name)] = weight
                del self.tensors[name]
            elif name not in beside:
                plain[name] = self.tensors[name]
        return plain

    def apply(self, model: nn.Module) -> None:
        """Gives the model, loaded from plain tensors, what is beside codes, and notes which weights these became.

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
            for scale in (each for name in sorted(stored) for each in self._beside(name)):
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
        size = self.made * dtype.itemsize
        note = f"{count} weights are stored in {self.form.kind} and computed with in {wide}"
        notes = [f"{note}: {size:,} bytes in memory, {self.held:,} as stored"]
        if any(each.rounds_inputs for each in self.by.values()):
            notes.append(
                "weights are decoded, and inputs are not rounded in training: what serves the base in "
                f"{self.form.kind} may round them, and gives slightly other results"
            )
        if len(self.form.forms) > 1:
            notes.append(
                "modules are stored in several forms, which transformers 5.23 does not decode while it loads a model: "
                "serve the adapter with what computes with the base as it is stored"
            )
        if self.cut:
            more = f" and {len(self.cut) - 1} more" if len(self.cut) > 1 else ""
            notes.append(
                f"blocks of {min(self.cut)!r}{more} are cut off at its edge: transformers 5.23 decodes it by blocks of "
                "another size, or not at all; serve the adapter with what decodes by the blocks of config.json"
            )
        return tuple(notes)

    def _is_codes(self, name: str) -> bool:
        return block_scaled.is_codes(name, self.codes)

    def _beside(self, name: str) -> tuple[str, ...]:
        return block_scaled.beside(name, self.codes, self.by[name].form)


def read(folder: Path, codes: Mapping[str, str], quantisation: Quantisation, *, meta: bool = False) -> DecodedLayout:
    """The base in `folder`; with `meta` from headers alone. `codes` are the dtypes by name."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensors[name] = _empty(file.get_slice(name), codes[name]) if meta else file.get_tensor(name)
    held = {name: tensor for name, tensor in tensors.items() if block_scaled.is_codes(name, codes)}
    by = {name: _decoding_of(name, tensors, codes, quantisation.decodings) for name in held}
    size = sum(tensor.nbytes for tensor in held.values())
    made = sum(tensor.nbytes * 8 // by[name].bits for name, tensor in held.items())
    cut = tuple(name for name, tensor in held.items() if decoding.is_cut(tensor, by[name]))
    return DecodedLayout(tensors, codes, quantisation, by, made, size, cut)


def _decoding_of(
    name: str, tensors: Mapping[str, Tensor], codes: Mapping[str, str], decodings: tuple[Decoding, ...]
) -> Decoding:
    """How a weight is decoded, of the ways that a configuration names: by what is stored, and by its shapes.

    ModelError where two of them fit, and would give different weights.
    """
    stored = block_scaled.fitting(name, codes, decodings)
    parts = {each: tensors[each] for each in block_scaled.beside(name, codes)}
    fitting = [each for each in stored if decoding.fits(name, tensors[name], parts, each)] if len(stored) > 1 else []
    if len({each.block for each in fitting}) > 1 and tensors[name].numel():
        grids = [decoding.blocks_of(tensors[name], each) for each in fitting]
        if len(set(grids)) > 1:
            message = (
                f"{name!r} has scales that fit blocks of {grids[0]} and of {grids[1]}, both of config_groups; "
                "take a base with one size of blocks, or the plain weights"
            )
            raise ModelError(message, param="model", code="quantised_model")
    return (fitting or stored)[0]


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
