"""Curves: scales, ticks, and what is not finite."""

from typing import Any

import pytest

from app.pages.curve import Series, draw


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(1, 0.5), (2, 0.5)],
        [(1, -3.0), (1_000_000, 5e9)],
        [(0, 1e-12), (3, 2e-12)],
        [(5, 0.0), (9, 0.0)],
    ],
)
def test_a_curve_stays_in_its_frame(points: list[tuple[int, float]]) -> None:
    """Every point and tick lies inside the axes, whatever the scale; ticks are distinct."""
    curve = draw([Series("training", "train", points)])
    assert curve is not None
    for x, y, _, _ in curve.lines[0].points:
        assert curve.left <= x <= curve.right
        assert curve.top <= y <= curve.bottom
    for ticks in (curve.up, curve.across):
        assert len({tick.label for tick in ticks}) == len(ticks) >= 1


def test_a_curve_leaves_out_what_is_not_finite() -> None:
    """A diverged run still has its curve up to there; nothing at all is no curve."""
    nan: Any = float("nan")
    curve = draw([Series("training", "train", [(1, 1.0), (2, nan), (3, float("inf"))])])
    assert curve is not None
    assert [point[2] for point in curve.lines[0].points] == [1]
    assert draw([Series("training", "train", [(1, nan)])]) is None
    assert draw([]) is None
