"""Plain weights from codes and what is stored beside them, one weight at a time: in float32, rounded once.

Shapes and values are checked first. On the meta device only shapes are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from app.errors import ModelError
from app.evidence.format.block_scaled import AWQ, FP8, GPTQ, MXFP4, NVFP4_PACKED, Decoding

#: By codes of 4 bits: a sign, two bits of an exponent and one of a fraction.
_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_BYTES, _NO_EXPONENT = 16, 0xFF
_WORD = 32  # bits that codes of whole numbers are packed into
#: Where AWQ's int32 has the codes of eight consecutive outputs: the first in its lowest bits, the second in the fifth.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
_MXFP4_GROUP, _NVFP4_GROUP = 32, 16


def decoded(name: str, codes: Tensor, parts: Mapping[str, Tensor], form: Decoding, dtype: torch.dtype) -> Tensor:
    """The weight of codes called `name`. `parts` are the tensors beside them, by their names in the files.

    ModelError where they do not belong together, or are no numbers.
    """
    of_form = _Parts(name, codes, parts, form, dtype)
    if form.form in (GPTQ, AWQ):
        weight = of_form.whole_numbers()
    elif form.form == MXFP4:
        weight = of_form.experts()
    elif form.block is not None:
        weight = of_form.float8()
    else:
        weight = of_form.float4()
    if not weight.is_meta and not bool(weight.isfinite().all()):
        raise _not_whole(f"{name!r} holds codes of NaN, or is infinite with its scales")
    return weight


def is_cut(codes: Tensor, form: Decoding) -> bool:
    """Whether blocks of a weight are cut off at its edge."""
    if form.block is None or codes.dim() != 2:
        return False
    return any(size is not None and codes.shape[at] % size for at, size in enumerate(form.block))


def blocks_of(codes: Tensor, form: Decoding) -> tuple[int, ...]:
    """Rows and columns that share a scale of this weight."""
    assert form.block is not None
    return tuple(min(size or codes.shape[at], codes.shape[at]) for at, size in enumerate(form.block))


def fits(name: str, codes: Tensor, parts: Mapping[str, Tensor], form: Decoding) -> bool:
    """Whether codes and what is beside them have the shapes that this way of decoding takes."""
    shapes = {each: tensor.to("meta") for each, tensor in parts.items()}
    try:
        decoded(name, codes.to("meta"), shapes, form, torch.float32)
    except ModelError:
        return False
    return True


class _Parts:
    """Codes and what is beside them, by the names that a form gives them in their module."""

    def __init__(
        self, name: str, codes: Tensor, parts: Mapping[str, Tensor], form: Decoding, dtype: torch.dtype
    ) -> None:
        self._name, self._codes, self._form, self._dtype = name, codes, form, dtype
        self._parts = {each.rpartition(".")[2]: (each, tensor) for each, tensor in parts.items()}

    def float8(self) -> Tensor:
        """Codes times the scale of their block."""
        codes = self._matrix()
        assert self._form.block is not None
        rows, columns = (size or codes.shape[at] for at, size in enumerate(self._form.block))
        grid = (-(-codes.shape[0] // rows), -(-codes.shape[1] // columns))
        leaf = "weight_scale_inv" if self._form.form == FP8 else "weight_scale"
        scales = self._positive(leaf, grid, reshaped=None in self._form.block)
        if codes.is_meta:
            return self._empty(*codes.shape)
        wide = scales.float().reshape(grid).repeat_interleave(rows, 0)[: codes.shape[0]]
        wide = wide.repeat_interleave(columns, 1)[:, : codes.shape[1]]
        return (codes.float() * wide).to(self._dtype)

    def float4(self) -> Tensor:
        """Two codes in a byte, the first in its low half, times the scale of their group."""
        codes, nv = self._matrix(), self._form.form == NVFP4_PACKED
        outputs, inputs = codes.shape[0], 2 * codes.shape[1]
        group = _NVFP4_GROUP if nv else _MXFP4_GROUP
        if inputs % group:
            raise _not_whole(f"{self._name!r} is {list(codes.shape)}, and {group} codes share a scale")
        scales = self._positive("weight_scale", (outputs, inputs // group))
        whole = self._positive("weight_global_scale", (1,), reshaped=True) if nv else None
        if codes.is_meta:
            return self._empty(outputs, inputs)
        wide = scales.float() / whole.float().reshape(1) if whole is not None else _powers(scales)
        return (_pairs(codes) * wide.repeat_interleave(group, 1)).to(self._dtype)

    def experts(self) -> Tensor:
        """(experts, outputs, blocks, 16 bytes) with (experts, outputs, blocks) to (experts, inputs, outputs).

        An expert at a time: in float32 all of them would take four times the memory of the weight.
        """
        codes = self._codes
        if codes.dim() != 4 or codes.shape[-1] != _BYTES:
            raise _not_whole(
                f"{self._name!r} is {list(codes.shape)}, and codes of experts are in blocks of {_BYTES} bytes"
            )
        scales = self._positive(next(iter(self._parts)), tuple(codes.shape[:-1]))
        experts, outputs, blocks, width = codes.shape
        weight = self._empty(experts, 2 * blocks * width, outputs)
        for number in range(experts) if not codes.is_meta else ():
            found = _pairs(codes[number]) * _powers(scales[number]).unsqueeze(-1)
            weight[number] = found.flatten(-2).T.to(self._dtype)
        return weight

    def whole_numbers(self) -> Tensor:
        """The difference of code and zero point, times the scale of the input's group."""
        codes, per_word = self._matrix(), _WORD // self._form.bits
        awq = self._form.form == AWQ
        inputs = codes.shape[0] * (1 if awq else per_word)
        outputs = codes.shape[1] * (per_word if awq else 1)
        groups = 1 if self._form.group == -1 else -(-inputs // self._form.group)
        if outputs % per_word:
            raise _not_whole(f"{self._name!r} is {list(codes.shape)}, and zero points of {per_word} outputs are packed")
        scales = self._beside("scales", (groups, outputs))
        packed = self._beside("qzeros", (groups, outputs // per_word))
        group_of = None if awq else self._beside("g_idx", (inputs,))
        if codes.is_meta:
            return self._empty(outputs, inputs)
        if not bool(scales.isfinite().all()):
            raise _not_whole(f"{self._parts['scales'][0]!r} holds a scale that is no number")
        if group_of is None:
            group_of = torch.arange(inputs) // (self._form.group if self._form.group > 0 else inputs)
        elif bool(((group_of < 0) | (group_of >= groups)).any()):
            raise _not_whole(f"{self._parts['g_idx'][0]!r} names a group that is none of the {groups}")
        index, zeros = group_of.long(), self._zeros(packed, awq=awq)
        found = _unpacked(codes, self._form.bits)
        found = found[..., list(_AWQ_PLACES)].flatten(1) if awq else found.transpose(1, 2).reshape(inputs, outputs)
        return ((found - zeros[index]).float() * scales.float()[index]).T.contiguous().to(self._dtype)

    def _zeros(self, packed: Tensor, *, awq: bool) -> Tensor:
        zeros = _unpacked(packed, self._form.bits)
        zeros = (zeros[..., list(_AWQ_PLACES)] if awq else zeros).flatten(1) + self._form.offset
        if bool((zeros >> self._form.bits).any()):
            # Some loaders take it for 0, some for 16, and some add one to the next zero point.
            name = self._parts["qzeros"][0]
            raise ModelError(
                f"{name!r} holds a zero point of all bits, which loaders read in different ways in the form 'gptq'; "
                "take a base in 'gptq_v2' or in another form, or the plain weights",
                param="model",
                code="quantised_model",
            )
        return zeros

    def _matrix(self) -> Tensor:
        if self._codes.dim() != 2 or not self._codes.numel():
            raise _not_whole(f"{self._name!r} is {list(self._codes.shape)}, and codes of a weight are a matrix")
        return self._codes

    def _positive(self, leaf: str, shape: tuple[int, ...], *, reshaped: bool = False) -> Tensor:
        scales = self._beside(leaf, shape, reshaped=reshaped)
        if not scales.is_meta and not _are_scales(scales):
            raise _not_whole(f"{self._parts[leaf][0]!r} holds a scale that is no positive number")
        return scales

    def _beside(self, leaf: str, shape: tuple[int, ...], *, reshaped: bool = False) -> Tensor:
        """The tensor of this name; where it may be `reshaped`, dimensions of one may be left out."""
        name, tensor = self._parts[leaf]
        found, wanted = tuple(tensor.shape), shape
        if reshaped:
            found, wanted = (tuple(size for size in each if size != 1) for each in (found, shape))
        if found != wanted:
            raise _not_whole(f"{name!r} is {list(tensor.shape)}, and for {self._name!r} it has to be {list(shape)}")
        return tensor

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._codes.device)


def _pairs(codes: Tensor) -> Tensor:
    """Two values for each byte, in float32; the last dimension becomes twice as long."""
    values, byte = torch.tensor(_FP4_VALUES), torch.arange(256)
    pairs = torch.stack((values[byte & 0xF], values[byte >> 4]), -1).to(codes.device)  # the low half comes first
    return pairs[codes.long()].flatten(-2)


def _powers(exponents: Tensor) -> Tensor:
    return exponents.view(torch.float8_e8m0fnu).float()


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """The codes of each int32, from its lowest bits up, in a last dimension of their own."""
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32, device=packed.device)
    return (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)


def _are_scales(scales: Tensor) -> bool:
    """Whether each scale is a positive number. One that is stored as an exponent is none where all its bits are set."""
    if scales.dtype == torch.uint8:
        return bool((scales != _NO_EXPONENT).all())
    wide = scales.float()
    return bool(((wide > 0) & wide.isfinite()).all())


def _not_whole(problem: str) -> ModelError:
    return ModelError(f"the model's files are damaged: {problem}", param="model", code="quantised_model")
