"""Statistics of the change between two versions of a tensor: exact counts on the bits, and norms of the values.

Float equality would call -0.0 equal to 0.0 and a NaN different from itself. Tensors are read in chunks, so memory does
not grow with them; only the rank statistics hold a whole matrix, of at most RANK_ELEMENTS elements.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.evidence.diff.dtypes import LAYOUTS, DtypeLayout, Floats, Words
from app.evidence.format.tensorfile import DTYPE_BITS, TensorFileError, byte_count
from app.jsontypes import JsonDict

CHUNK = 6 << 20  # bytes; a multiple of every element size, and of the 3 bytes that hold four 6-bit elements
RANK_ELEMENTS = 1 << 24  # matrices larger than this get no rank statistics
_EXACT_SIDE = 512  # up to this smaller side all singular values are computed, beyond it only the largest
_KEPT_ULPS = 1 << 23  # distances kept for the quantiles; more of them are counted in further passes


class ByteSource(Protocol):
    """The bytes of one stored tensor."""

    def read(self, start: int, stop: int) -> bytes | memoryview: ...


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor inside an open file: `file` is a descriptor, `offset` the tensor's first byte."""

    file: int
    offset: int

    def read(self, start: int, stop: int) -> bytes:
        data = os.pread(self.file, stop - start, self.offset + start)
        while len(data) < stop - start:  # one pread gives at most 2 GiB, and may give less
            more = os.pread(self.file, stop - start - len(data), self.offset + start + len(data))
            if not more:
                raise TensorFileError("the file ends before the tensor does")
            data += more
        return data


@dataclass(frozen=True, slots=True)
class Change:
    """Statistics of base -> result. Counts and ULPs are exact; None means not defined for this tensor.

    Quantiles are over the changed elements of which neither version is NaN: the value at rank ceil(q * n). A ULP is one
    step between neighbouring values of the dtype (for integers 1). Norms leave out elements that are not finite.
    """

    elements: int
    changed: int  # elements whose bits differ
    fraction: float
    sign_flips: int  # from below zero to above it or back
    zero_sign_only: int  # 0.0 <-> -0.0
    non_finite: int  # NaN or infinite in the result, changed or not
    max_ulp: int | None
    p99_ulp: int | None
    median_ulp: int | None
    l2: float | None  # norm of the difference
    relative_l2: float | None  # against the base's norm
    max_abs: float | None
    cosine: float | None  # between base and result
    update_to_weight: float | None  # std of the difference / std of the base; about 1e-3 per step is healthy
    stable_rank: float | None  # of the difference, a matrix: squared Frobenius norm / squared spectral norm
    effective_rank: float | None  # exp of the entropy of its singular values above eps * the base's norm

    def to_json(self) -> dict[str, int | float | None]:
        return asdict(self)


def compare(base: ByteSource, result: ByteSource, *, dtype: str, shape: Sequence[int], ranks: bool = True) -> Change:
    """Statistics for one tensor that has this dtype and shape in both versions."""
    nbytes = byte_count(dtype, shape)
    layout = LAYOUTS.get(dtype)
    tally = _Tally()
    for old, new in _pairs(base, result, nbytes):
        tally.changed += _changed(old, new, dtype)
        if layout is not None:
            tally.bits(layout, old, new)
            tally.values(layout.values(old), layout.values(new), same=old.tobytes() == new.tobytes())
    max_ulp, p99, median = tally.quantiles(lambda: _distances(base, result, nbytes, layout))
    stable, effective = None, None
    if ranks and layout is not None and tally.changed and _rankable(dtype, shape):
        stable, effective = _ranks(
            _difference(base, result, layout, shape), layout.epsilon * math.sqrt(tally.base_square)
        )
    return Change(
        **tally.counts(math.prod(shape)),
        max_ulp=max_ulp,
        p99_ulp=p99,
        median_ulp=median,
        **(tally.norms() if layout is not None else dict.fromkeys(_NORMS)),
        stable_rank=stable,
        effective_rank=effective,
    )


def compare_values(
    base: ByteSource, result: ByteSource, *, base_dtype: str, result_dtype: str, shape: Sequence[int]
) -> Change | None:
    """Statistics by value for a tensor that is stored in another dtype; None for packed dtypes.

    `changed` counts elements whose values differ (a NaN equals no value); ULPs are not defined across dtypes.
    """
    old_layout, new_layout = LAYOUTS.get(base_dtype), LAYOUTS.get(result_dtype)
    if old_layout is None or new_layout is None:
        return None
    tally, elements = _Tally(), math.prod(shape)
    step = CHUNK // 8
    for start in range(0, elements, step):
        stop = min(start + step, elements)
        old = old_layout.values(_array(base, start * old_layout.size, stop * old_layout.size))
        new = new_layout.values(_array(result, start * new_layout.size, stop * new_layout.size))
        tally.changed += int(np.count_nonzero(old != new))
        tally.sign_flips += int(np.count_nonzero((old < 0) & (new > 0) | (old > 0) & (new < 0)))
        tally.zero_sign_only += int(np.count_nonzero((old == 0) & (new == 0) & (np.signbit(old) != np.signbit(new))))
        tally.non_finite += int(np.count_nonzero(~np.isfinite(new)))
        tally.values(old, new, same=False)
    return Change(
        **tally.counts(elements) | tally.norms(),
        max_ulp=None,
        p99_ulp=None,
        median_ulp=None,
        stable_rank=None,
        effective_rank=None,
    )


_NORMS = ("l2", "relative_l2", "max_abs", "cosine", "update_to_weight")


class _Tally:
    """Sums over chunks."""

    def __init__(self) -> None:
        self.changed = self.sign_flips = self.zero_sign_only = self.non_finite = 0
        self.ulps: list[Words] = []
        self.ulp_count = self.ulp_max = 0
        self.square = self.base_square = self.result_square = self.product = 0.0
        self.max_abs = 0.0
        self.base_spread, self.spread = _Spread(), _Spread()

    def bits(self, layout: DtypeLayout, old_raw: npt.NDArray[np.uint8], new_raw: npt.NDArray[np.uint8]) -> None:
        old, new = layout.words(old_raw), layout.words(new_raw)
        self.non_finite += int(np.count_nonzero(~layout.finite(new)))
        moved = old != new
        if not moved.any():
            return
        old, new = old[moved], new[moved]
        usual = ~(layout.nan(old) | layout.nan(new))
        old, new = old[usual], new[usual]
        down = layout.above_zero(old) & layout.below_zero(new)
        up = layout.below_zero(old) & layout.above_zero(new)
        self.sign_flips += int(np.count_nonzero(up | down))
        ulps = layout.distance(old, new)
        self.zero_sign_only += int(np.count_nonzero(ulps == 0))
        self.ulp_count += ulps.size
        self.ulp_max = max(self.ulp_max, int(ulps.max(initial=0)))
        if self.ulp_count <= _KEPT_ULPS:
            self.ulps.append(ulps)

    def values(self, old: Floats, new: Floats, *, same: bool) -> None:
        usual = np.isfinite(old) & np.isfinite(new)
        if not usual.all():
            old, new = old[usual], new[usual]
        with np.errstate(over="ignore", invalid="ignore"):
            squares = float(old @ old)
            self.base_square += squares
            self.base_spread.add(old)
            if same:
                self.result_square += squares
                self.product += squares
                self.spread.add(np.zeros(1), times=old.size)
                return
            difference = new - old
            self.result_square += float(new @ new)
            self.product += float(old @ new)
            self.square += float(difference @ difference)
            self.spread.add(difference)
            self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))

    def quantiles(self, distances: Callable[[], Iterator[Words]]) -> tuple[int | None, int | None, int | None]:
        """Maximum, p99 and median of the distances; None where nothing changed."""
        count = self.ulp_count
        if not count:
            return None, None, None
        ranks = [-(-99 * count // 100), -(-count // 2)]
        if count <= _KEPT_ULPS:
            ordered = np.sort(np.concatenate(self.ulps))
            p99, median = (int(ordered[rank - 1]) for rank in ranks)
        else:
            p99, median = select(distances, ranks, largest=self.ulp_max)
        return self.ulp_max, p99, median

    def counts(self, elements: int) -> JsonDict:
        """What is counted over the tensor's `elements`."""
        return {
            "elements": elements,
            "changed": self.changed,
            "fraction": self.changed / elements if elements else 0.0,
            "sign_flips": self.sign_flips,
            "zero_sign_only": self.zero_sign_only,
            "non_finite": self.non_finite,
        }

    def norms(self) -> dict[str, float | None]:
        l2, base, result = (math.sqrt(square) for square in (self.square, self.base_square, self.result_square))
        values = {
            "l2": l2,
            "relative_l2": l2 / base if base else math.nan,
            "max_abs": self.max_abs,
            "cosine": self.product / base / result if base and result else math.nan,
            "update_to_weight": self.spread.std() / self.base_spread.std() if self.base_spread.std() else math.nan,
        }
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


class _Spread:
    """Standard deviation from chunks (Chan, Golub and LeVeque 1983): sums of squares alone would cancel."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, 0.0, 0.0

    def add(self, values: Floats, *, times: int | None = None) -> None:
        """One chunk; with `times`, that many copies of its only value."""
        count = values.size if times is None else times
        if not count:
            return
        mean = float(values.mean())
        square = float(((values - mean) ** 2).sum())
        shift, total = mean - self.mean, self.count + count
        self.square += square + shift * shift * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    def std(self) -> float:
        return math.sqrt(self.square / self.count) if self.count else 0.0


def select(chunks: Callable[[], Iterator[Words]], ranks: Sequence[int], *, largest: int) -> list[int]:
    """The values at 1-based ranks of the sorted whole, in memory that does not grow: 16 bits more in each pass."""
    ranked = [(0, rank) for rank in ranks]  # the leading bits so far, and the rank among values that share them
    for shift in range(16 * ((max(largest.bit_length(), 1) - 1) // 16), -1, -16):
        counts = {prefix: np.zeros(1 << 16, np.int64) for prefix, _ in ranked}
        for chunk in chunks():
            for prefix, count in counts.items():
                # Shifting by 64 is undefined, so the digit above is reached in two steps.
                words = chunk[(chunk >> np.uint64(shift)) >> np.uint64(16) == np.uint64(prefix)]
                digits = (words >> np.uint64(shift)) & np.uint64(0xFFFF)
                count += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        ranked = [_descend(prefix, rank, counts[prefix]) for prefix, rank in ranked]
    return [prefix for prefix, _ in ranked]


def _descend(prefix: int, rank: int, counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    sums = np.cumsum(counts)
    digit = int(np.searchsorted(sums, rank))
    return prefix << 16 | digit, rank - (int(sums[digit - 1]) if digit else 0)


def _array(source: ByteSource, start: int, stop: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(source.read(start, stop), np.uint8)


def _pairs(
    base: ByteSource, result: ByteSource, nbytes: int
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    for start in range(0, nbytes, CHUNK):
        stop = min(start + CHUNK, nbytes)
        yield _array(base, start, stop), _array(result, start, stop)


def _distances(base: ByteSource, result: ByteSource, nbytes: int, layout: DtypeLayout | None) -> Iterator[Words]:
    assert layout is not None  # there are distances only where there is a layout
    for old_raw, new_raw in _pairs(base, result, nbytes):
        old, new = layout.words(old_raw), layout.words(new_raw)
        moved = (old != new) & ~layout.nan(old) & ~layout.nan(new)
        yield layout.distance(old[moved], new[moved])


def _changed(old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8], dtype: str) -> int:
    bits = DTYPE_BITS[dtype]
    if bits % 8 == 0:
        kind = f"<u{bits // 8}"
        return int(np.count_nonzero(old.view(kind) != new.view(kind)))
    differing = np.unpackbits(old ^ new, bitorder="little")
    differing = differing[: differing.size // bits * bits]
    return int(np.count_nonzero(differing.reshape(-1, bits).any(axis=1)))


def _rankable(dtype: str, shape: Sequence[int]) -> bool:
    return dtype != "C64" and len(shape) == 2 and min(shape) > 1 and math.prod(shape) <= RANK_ELEMENTS


def _difference(base: ByteSource, result: ByteSource, layout: DtypeLayout, shape: Sequence[int]) -> Floats:
    nbytes = math.prod(shape) * layout.size
    difference = layout.values(_array(result, 0, nbytes)) - layout.values(_array(base, 0, nbytes))
    difference[~np.isfinite(difference)] = 0.0
    return difference.reshape(shape)


def _ranks(matrix: Floats, threshold: float) -> tuple[float | None, float | None]:
    """Stable and effective rank; the latter only where all singular values are affordable."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    scale = float(np.abs(matrix).max(initial=0.0))
    if not scale:
        return None, None
    matrix = matrix / scale  # squares of tiny updates would vanish
    if matrix.shape[1] > _EXACT_SIDE:
        return float((matrix * matrix).sum() / _largest_square(matrix)), None
    squares = np.linalg.eigvalsh(matrix.T @ matrix).clip(min=0.0)
    values = np.sqrt(squares[np.sqrt(squares) * scale > threshold])
    if not values.size:  # all of it is rounding
        return float(squares.sum() / squares.max()), None
    shares = values / values.sum()
    return float(squares.sum() / squares.max()), float(np.exp(-(shares * np.log(shares)).sum()))


def _largest_square(matrix: Floats, steps: int = 40) -> float:
    """The largest squared singular value, from below, by power iteration from a fixed start."""
    vector: Floats = np.random.default_rng(0).standard_normal((matrix.shape[1],))
    square = 0.0
    for _ in range(steps):
        image: Floats = np.matmul(matrix, vector / math.sqrt(float(vector @ vector)))
        square = float(image @ image)
        vector = np.matmul(matrix.T, image)
    return square
