import itertools
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.evidence.diff import changes
from app.evidence.diff.changes import Change, Span, compare, compare_values, select
from app.evidence.diff.dtypes import LAYOUTS
from app.evidence.format.tensorfile import DTYPE_BITS, byte_count
from tests.app.evidence.held import Held

torch = pytest.importorskip("torch")

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
FLOATS = sorted(TORCH)
INTEGERS = {"I8": "b", "I16": "h", "I32": "i", "I64": "q", "U8": "B", "U16": "H", "U32": "I", "U64": "Q"}


def stat(base: bytes, result: bytes, dtype: str, shape: tuple[int, ...] | None = None) -> Change:
    shape = (len(base) * 8 // DTYPE_BITS[dtype],) if shape is None else shape
    return compare(Held(base), Held(result), dtype=dtype, shape=shape)


def decoded(raw: bytes, dtype: str) -> list[float]:
    """Values by torch, which has its own idea of every float format."""
    return torch.frombuffer(bytearray(raw), dtype=TORCH[dtype]).to(torch.float64).tolist() if raw else []


def words(raw: bytes, size: int) -> list[int]:
    return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]


def steps(dtype: str) -> dict[int, int]:
    """Bit pattern -> place among all values of an 8- or 16-bit float, counted by sorting them; NaN has no place."""
    size = DTYPE_BITS[dtype] // 8
    patterns = list(range(1 << 8 * size))
    values = decoded(b"".join(pattern.to_bytes(size, "little") for pattern in patterns), dtype)
    ordered = sorted({value for value in values if not math.isnan(value)})
    place = {value: at for at, value in enumerate(ordered)}  # 0.0 and -0.0 are one key
    return {p: place[v] for p, v in zip(patterns, values, strict=True) if not math.isnan(v)}


PLACES = {dtype: steps(dtype) for dtype in FLOATS if DTYPE_BITS[dtype] <= 16}


@st.composite
def versions(draw: st.DrawFn, dtype: str) -> tuple[bytes, bytes]:
    """Two versions of some elements, about half of them equal; any bits, specials more often than by chance."""
    size = DTYPE_BITS[dtype] // 8
    top = 1 << 8 * size
    infinity = LAYOUTS[dtype].infinity or 0
    special = st.sampled_from([0, top >> 1, top - 1, infinity, infinity + 1, infinity | top >> 1, 1, (top >> 1) + 1])
    element = st.integers(0, top - 1) | special
    pairs = draw(st.lists(st.tuples(element, element, st.booleans()), max_size=12))
    base = b"".join(old.to_bytes(size, "little") for old, _, _ in pairs)
    return base, b"".join((old if same else new).to_bytes(size, "little") for old, new, same in pairs)


def at_rank(values: list[int], quantile: float) -> int | None:
    return sorted(values)[math.ceil(quantile * len(values)) - 1] if values else None


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=60)
@given(st.data())
def test_counts_of_floats_are_exact(dtype: str, data: st.DataObject) -> None:
    """Bit by bit, against torch's reading of the same bytes: NaN payloads, infinities, -0.0 and all."""
    base, result = data.draw(versions(dtype))
    change = stat(base, result, dtype)
    size = DTYPE_BITS[dtype] // 8
    old, new = words(base, size), words(result, size)
    before, after = decoded(base, dtype), decoded(result, dtype)
    moved = [at for at in range(len(old)) if old[at] != new[at]]
    assert change.elements == len(old)
    assert change.changed == len(moved)
    assert change.sign_flips == sum(before[at] * 1 < 0 < after[at] or after[at] < 0 < before[at] for at in moved)
    assert change.zero_sign_only == sum(before[at] == after[at] == 0 for at in moved)
    assert change.non_finite == sum(not math.isfinite(value) for value in after)
    if dtype in PLACES:
        places = PLACES[dtype]
        ulps = [abs(places[old[at]] - places[new[at]]) for at in moved if old[at] in places and new[at] in places]
        assert change.max_ulp == max(ulps, default=None)
        assert change.median_ulp == at_rank(ulps, 0.5)
        assert change.p99_ulp == at_rank(ulps, 0.99)


@pytest.mark.parametrize(("dtype", "code"), [("F32", "f"), ("F64", "d")])
def test_ulps_of_wide_floats(dtype: str, code: str) -> None:
    """One step of nextafter is one ULP, also across zero, into infinity and among subnormals."""
    tiny = {"F32": 2.0**-149, "F64": 5e-324}[dtype]
    largest = {"F32": 3.4028234663852886e38, "F64": 1.7976931348623157e308}[dtype]
    for old, new, distance in [
        (0.0, tiny, 1),
        (-0.0, tiny, 1),
        (-tiny, tiny, 2),
        (0.0, -0.0, 0),
        (largest, math.inf, 1),
        (1.0, 2.0, {"F32": 1 << 23, "F64": 1 << 52}[dtype]),
        (-math.inf, math.inf, {"F32": 2 * (0xFF << 23), "F64": 2 * (0x7FF << 52)}[dtype]),
    ]:
        change = stat(struct.pack(f"<{code}", old), struct.pack(f"<{code}", new), dtype)
        assert (change.changed, change.max_ulp) == (1, distance)


@pytest.mark.parametrize("dtype", sorted(INTEGERS))
@settings(max_examples=40)
@given(st.data())
def test_counts_of_integers_are_exact(dtype: str, data: st.DataObject) -> None:
    """Distances as Python's own integers give them, also where a subtraction would overflow."""
    base, result = data.draw(versions(dtype))
    change = stat(base, result, dtype)
    size = DTYPE_BITS[dtype] // 8
    form = f"<{len(base) // size}{INTEGERS[dtype]}"
    old, new = struct.unpack(form, base), struct.unpack(form, result)
    distances = [abs(a - b) for a, b in zip(old, new, strict=True) if a != b]
    assert change.changed == len(distances)
    assert change.sign_flips == sum((a < 0 < b) or (b < 0 < a) for a, b in zip(old, new, strict=True))
    assert change.max_ulp == max(distances, default=None)
    assert change.median_ulp == at_rank(distances, 0.5)
    assert (change.zero_sign_only, change.non_finite) == (0, 0)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32)), min_size=1, max_size=30),
    st.sampled_from([24, 48]),
)
def test_norms_are_numpys_whatever_the_chunks(pairs: list[tuple[float, float]], chunk: int) -> None:
    """L2, relative L2, maximum, cosine and the ratio of standard deviations."""
    old, new = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "CHUNK", chunk)
        change = stat(old.tobytes(), new.tobytes(), "F32")
    base, result = old.astype(np.float64), new.astype(np.float64)
    difference = result - base
    assert change.l2 == pytest.approx(np.linalg.norm(difference))
    assert change.max_abs == np.abs(difference).max()
    if np.linalg.norm(base) > 0:
        assert change.relative_l2 == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(base))
        if np.linalg.norm(result) > 0:
            cosine = base @ result / np.linalg.norm(base) / np.linalg.norm(result)
            assert change.cosine == pytest.approx(cosine, abs=1e-9)
    if np.std(base) > 1e-3:
        assert change.update_to_weight == pytest.approx(np.std(difference) / np.std(base), abs=1e-6)


def test_what_is_not_defined_is_none() -> None:
    """No norm of a zero base, no ULP where nothing changed or all is NaN, no ranks of a vector; empty tensors work."""
    same = stat(b"\0" * 8, b"\0" * 8, "F32")
    assert (same.changed, same.max_ulp, same.relative_l2, same.cosine, same.update_to_weight) == (
        0,
        None,
        None,
        None,
        None,
    )
    nan = stat(b"\0\0\xc0\x7f", b"\1\0\xc0\x7f", "F32")
    assert (nan.changed, nan.non_finite, nan.max_ulp, nan.l2) == (1, 1, None, 0.0)
    empty = stat(b"", b"", "F32", (0, 4))
    assert (empty.elements, empty.fraction, empty.changed) == (0, 0.0, 0)
    overflow = stat(struct.pack("<d", 1e308), struct.pack("<d", -1e308), "F64")
    assert (overflow.changed, overflow.l2) == (1, None)


def test_reports_are_json(tmp_path: Path) -> None:
    """No NaN and no numpy type gets out."""
    import json

    change = stat(os.urandom(64), os.urandom(64), "BF16", (4, 8))
    assert json.loads(json.dumps(change.to_json(), allow_nan=False))["elements"] == 32


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_ranks_of_a_known_matrix(rank: int) -> None:
    """A difference of r equal singular values has stable and effective rank r."""
    rng = np.random.default_rng(rank)
    left, right = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in (40, 12))
    base = np.zeros((40, 12))
    change = stat(base.tobytes(), (base + 3e-9 * left @ right.T).tobytes(), "F64", (40, 12))
    assert change.stable_rank == pytest.approx(rank)
    assert change.effective_rank == pytest.approx(rank)


def test_ranks_leave_rounding_out() -> None:
    """Singular values below eps times the base's norm are noise of the dtype, not a direction of change."""
    base = np.full((8, 8), 100.0, np.float32)
    result = base.copy()
    result[0, 0] += 50
    result[1, 1] = np.nextafter(result[1, 1], np.float32(200))
    change = stat(base.tobytes(), result.tobytes(), "F32", (8, 8))
    assert change.changed == 2
    assert change.effective_rank == pytest.approx(1.0)


def test_stable_rank_of_a_large_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the side for exact values, power iteration; beyond the size, nothing."""
    rng = np.random.default_rng(0)
    difference = rng.standard_normal((30, 20)) + 3 * np.outer(rng.standard_normal(30), rng.standard_normal(20))
    exact = stat(bytes(30 * 20 * 8), difference.tobytes(), "F64", (30, 20)).stable_rank
    monkeypatch.setattr(changes, "_EXACT_SIDE", 4)
    iterated = stat(bytes(30 * 20 * 8), difference.tobytes(), "F64", (30, 20))
    assert iterated.stable_rank == pytest.approx(exact, rel=1e-6)
    assert iterated.effective_rank is None
    monkeypatch.setattr(changes, "RANK_ELEMENTS", 100)
    assert stat(bytes(30 * 20 * 8), difference.tobytes(), "F64", (30, 20)).stable_rank is None


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=50), st.data())
def test_select_finds_ranks_without_sorting(values: list[int], data: st.DataObject) -> None:
    """16 bits per pass, over as many chunks as there are: the same as sorting."""
    ranks = data.draw(st.lists(st.integers(1, len(values)), min_size=1, max_size=3))
    array = np.array(values, np.uint64)
    found = select(lambda: iter([array[::2], array[1::2]]), ranks, largest=max(values))
    assert found == [sorted(values)[rank - 1] for rank in ranks]


def test_quantiles_do_not_depend_on_how_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor with more changes than are kept in memory is counted in passes, with the same outcome."""
    base, result = os.urandom(4000), os.urandom(4000)
    kept = stat(base, result, "F32")
    monkeypatch.setattr(changes, "_KEPT_ULPS", 10)
    monkeypatch.setattr(changes, "CHUNK", 240)
    counted = stat(base, result, "F32")
    assert (counted.max_ulp, counted.p99_ulp, counted.median_ulp) == (kept.max_ulp, kept.p99_ulp, kept.median_ulp)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "BOOL", "C64"])
def test_changed_elements_of_other_dtypes(dtype: str) -> None:
    """Packed elements are counted by their bits; a complex number that changed in both parts is one element."""
    nbytes = byte_count(dtype, (8,))
    base = bytes(nbytes)
    for changed in itertools.product([0, 1], repeat=8):
        bits = DTYPE_BITS[dtype]
        value = sum(flag << (bits * at) | flag << (bits * at + bits - 1) for at, flag in enumerate(changed))
        change = stat(base, value.to_bytes(nbytes, "little"), dtype, (8,))
        assert change.changed == sum(changed)


def test_another_dtype_is_compared_by_value() -> None:
    """A bf16 tensor saved as fp32 keeps its values, which says nothing about identity."""
    half = torch.tensor([1.5, -2.0, 0.0, 3.0], dtype=torch.bfloat16)
    wide = half.to(torch.float32)
    wide[3] = 4.0
    sources = [Held(tensor.view(torch.uint8).numpy().tobytes()) for tensor in (half, wide)]
    change = compare_values(*sources, base_dtype="BF16", result_dtype="F32", shape=(4,))
    assert change is not None
    assert (change.changed, change.max_abs, change.max_ulp) == (1, 1.0, None)
    assert compare_values(*sources, base_dtype="F4", result_dtype="F32", shape=(4,)) is None


def test_spans_of_files(tmp_path: Path) -> None:
    """A tensor inside an open file, read in parts; a file that ends too early is an error."""
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert Span(descriptor, 3).read(1, 4) == b"456"
        with pytest.raises(ValueError, match="ends before"):
            Span(descriptor, 8).read(0, 3)
    finally:
        os.close(descriptor)
