"""Bit layouts of dtypes: values, NaN, infinities, and the steps between two values."""

import numpy as np
import pytest

from app.evidence.diff.dtypes import LAYOUTS


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_values_are_those_of_numpy(dtype: str) -> None:
    numbers = np.array([0.0, -0.0, 1.5, -2.25, 65504.0], dtype=f"<f{int(dtype[1:]) // 8}")
    raw = np.frombuffer(numbers.tobytes(), np.uint8)
    assert (LAYOUTS[dtype].values(raw) == numbers.astype(np.float64)).all()


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_nan_and_infinity_are_not_finite(dtype: str) -> None:
    layout = LAYOUTS[dtype]
    numbers = np.array([np.nan, np.inf, -np.inf, 1.0], dtype=f"<f{int(dtype[1:]) // 8}")
    words = layout.words(np.frombuffer(numbers.tobytes(), np.uint8))
    assert layout.nan(words).tolist() == [True, False, False, False]
    assert layout.finite(words).tolist() == [False, False, False, True]


def test_bf16_is_the_upper_half_of_a_float32() -> None:
    raw = np.frombuffer(np.array([0x3FC0, 0xC010], "<u2").tobytes(), np.uint8)
    assert LAYOUTS["BF16"].values(raw).tolist() == [1.5, -2.25]


def test_distance_counts_steps_across_zero_and_takes_both_zeros_for_one() -> None:
    layout = LAYOUTS["F32"]
    tiny = np.nextafter(np.float32(0), np.float32(1))
    old = layout.words(np.frombuffer(np.array([-tiny, 0.0, 1.0], "<f4").tobytes(), np.uint8))
    new = layout.words(
        np.frombuffer(np.array([tiny, -0.0, np.nextafter(np.float32(1), np.float32(2))], "<f4").tobytes(), np.uint8)
    )
    assert layout.distance(old, new).tolist() == [2, 0, 1]


def test_distance_of_integers_is_their_difference() -> None:
    layout = LAYOUTS["I8"]
    old, new = (layout.words(np.frombuffer(np.array(n, "i1").tobytes(), np.uint8)) for n in ([-128, -1], [127, 1]))
    assert layout.distance(old, new).tolist() == [255, 2]
