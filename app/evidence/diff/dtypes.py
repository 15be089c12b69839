"""Bit layouts of the dtypes: values, sign, NaN, and the number of steps between two values."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DtypeLayout:
    """The bit layout of a dtype. `size` in bytes; `infinity` is a magnitude, those above `nan_above` are NaN."""

    size: int
    kind: str  # "float" (sign and magnitude) | "signed" (two's complement) | "unsigned"
    values: Callable[[npt.NDArray[np.uint8]], Floats]
    epsilon: float = 0.0
    infinity: int | None = None
    nan_above: int | None = None
    nan_bits: int | None = None  # one bit pattern that is NaN, where that is all there is

    def words(self, raw: npt.NDArray[np.uint8]) -> Words:
        return raw.view(f"<u{self.size}").astype(np.uint64)

    @property
    def sign(self) -> np.uint64:
        return np.uint64(1 << (8 * self.size - 1))

    def magnitude(self, words: Words) -> Words:
        return words & (self.sign - np.uint64(1))

    def nan(self, words: Words) -> Flags:
        if self.nan_bits is not None:
            return np.equal(words, np.uint64(self.nan_bits))
        if self.nan_above is None:
            return np.zeros(words.shape, bool)
        return np.greater(self.magnitude(words), np.uint64(self.nan_above))

    def finite(self, words: Words) -> Flags:
        usual = ~self.nan(words)
        return usual if self.infinity is None else usual & (self.magnitude(words) != np.uint64(self.infinity))

    def distance(self, old: Words, new: Words) -> Words:
        """Steps between two values: magnitudes subtract under one sign and add across zero."""
        if self.kind == "float":
            a, b = self.magnitude(old), self.magnitude(new)
            return np.where((old ^ new) & self.sign, a + b, np.maximum(a, b) - np.minimum(a, b))
        if self.kind == "signed":  # flipping the sign bit puts two's complement in unsigned order
            old, new = old ^ self.sign, new ^ self.sign
        return np.maximum(old, new) - np.minimum(old, new)

    def below_zero(self, words: Words) -> Flags:
        if self.kind == "unsigned":
            return np.zeros(words.shape, bool)
        negative: Flags = np.not_equal(words & self.sign, 0)
        return np.logical_and(negative, self.magnitude(words)) if self.kind == "float" else negative

    def above_zero(self, words: Words) -> Flags:
        other: Flags = ~(self.below_zero(words) | self.negative_zero(words))
        return np.logical_and(words, other)

    def negative_zero(self, words: Words) -> Flags:
        if self.kind != "float" or self.nan_bits is not None:  # with one NaN pattern, it is the one of -0.0
            return np.zeros(words.shape, bool)
        return np.equal(words, self.sign)


def _numpy(code: str) -> Callable[[npt.NDArray[np.uint8]], Floats]:
    return lambda raw: _widened(raw.view(code))


def _bf16(raw: npt.NDArray[np.uint8]) -> Floats:
    return _widened((raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32))


def _widened(values: npt.NDArray[np.generic]) -> Floats:
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one; nothing reads its payload here
        return values.astype(np.float64)


def _table(exponent: int, mantissa: int, bias: int, *, nan: Callable[[int], bool], inf: int | None = None) -> Floats:
    """All 256 values of an 8-bit float."""
    values = []
    for bits in range(256):
        power, fraction = bits >> mantissa & ((1 << exponent) - 1), bits & ((1 << mantissa) - 1)
        lead = 1.0 if power else 0.0
        value = (lead + fraction / (1 << mantissa)) * 2.0 ** (max(power, 1) - bias)
        value = math.inf if inf is not None and bits & 0x7F == inf else value
        values.append(math.nan if nan(bits) else -value if bits & 0x80 else value)
    return np.array(values)


def _looked_up(table: Floats) -> Callable[[npt.NDArray[np.uint8]], Floats]:
    return lambda raw: table[raw]


_E5M2 = _table(5, 2, 15, nan=lambda bits: bits & 0x7F > 0x7C, inf=0x7C)
_E4M3 = _table(4, 3, 7, nan=lambda bits: bits & 0x7F == 0x7F)
_E5M2FNUZ = _table(5, 2, 16, nan=lambda bits: bits == 0x80)
_E4M3FNUZ = _table(4, 3, 8, nan=lambda bits: bits == 0x80)
_E8M0 = np.array([2.0 ** (bits - 127) for bits in range(255)] + [math.nan])

LAYOUTS: dict[str, DtypeLayout] = {
    "F64": DtypeLayout(8, "float", _numpy("<f8"), 2.0**-52, infinity=0x7FF << 52, nan_above=0x7FF << 52),
    "F32": DtypeLayout(4, "float", _numpy("<f4"), 2.0**-23, infinity=0xFF << 23, nan_above=0xFF << 23),
    "F16": DtypeLayout(2, "float", _numpy("<f2"), 2.0**-10, infinity=0x1F << 10, nan_above=0x1F << 10),
    "BF16": DtypeLayout(2, "float", _bf16, 2.0**-7, infinity=0xFF << 7, nan_above=0xFF << 7),
    "F8_E5M2": DtypeLayout(1, "float", _looked_up(_E5M2), 2.0**-2, infinity=0x7C, nan_above=0x7C),
    "F8_E4M3": DtypeLayout(1, "float", _looked_up(_E4M3), 2.0**-3, nan_above=0x7E),
    "F8_E5M2FNUZ": DtypeLayout(1, "float", _looked_up(_E5M2FNUZ), 2.0**-2, nan_bits=0x80),
    "F8_E4M3FNUZ": DtypeLayout(1, "float", _looked_up(_E4M3FNUZ), 2.0**-3, nan_bits=0x80),
    "F8_E8M0": DtypeLayout(1, "unsigned", _looked_up(_E8M0), 1.0, nan_bits=0xFF),
    # Real and imaginary parts count one by one, in everything but `changed`.
    "C64": DtypeLayout(4, "float", _numpy("<f4"), 2.0**-23, infinity=0xFF << 23, nan_above=0xFF << 23),
    **{f"I{8 * size}": DtypeLayout(size, "signed", _numpy(f"<i{size}")) for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": DtypeLayout(size, "unsigned", _numpy(f"<u{size}")) for size in (1, 2, 4, 8)},
    "BOOL": DtypeLayout(1, "unsigned", _numpy("<u1")),
}
