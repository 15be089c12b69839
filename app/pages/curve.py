"""Curves as SVG paths: scales, round ticks, and one path for each series."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 32.0


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """Values by step: what a reader calls them, and the class of their line."""

    label: str
    kind: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    kind: str
    path: str
    points: tuple[tuple[float, float, int, float], ...]  # x, y, step, value

    def read_out(self) -> list[list[float]]:
        """What a script reads the values from: x, step and value, in few characters."""
        return [[x, step, float(f"{value:.5g}")] for x, _, step, value in self.points]


@dataclass(frozen=True, slots=True)
class Curve:
    """What the template draws, in the coordinates of its view box."""

    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def draw(series: Sequence[Series]) -> Curve | None:
    """The series in one frame; None when no finite point is there."""
    finite = [(each, [point for point in each.points if math.isfinite(point[1])]) for each in series]
    finite = [(each, points) for each, points in finite if points]
    if not finite:
        return None
    steps = [step for _, points in finite for step, _ in points]
    values = [value for _, points in finite for _, value in points]
    across, up = _ticks(min(steps), max(steps), whole=True), _ticks(min(values), max(values), whole=False)
    first, last = min(steps), max(max(steps), min(steps) + 1)
    low, high = up[0], up[-1]

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for each, points in finite:
        placed = tuple((round(x(step), 1), round(y(value), 1), step, value) for step, value in points)
        path = "M" + " L".join(f"{px} {py}" for px, py, _, _ in placed)
        lines.append(Line(each.label, each.kind, path, placed))
    return Curve(
        tuple(lines),
        tuple(Tick(round(x(at), 1), f"{at:,.0f}") for at in across if first <= at <= last),
        tuple(Tick(round(y(at), 1), _label(at)) for at in up),
    )


def _label(value: float) -> str:
    return f"{value:,.6g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.4g}"


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Round numbers that enclose the range: five steps of 1, 2 or 5 times a power of ten, or so."""
    span = (high - low) or max(abs(high), 1.0)
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    start, stop = math.floor(low / step), math.ceil(high / step)
    if start == stop:
        stop += 1
    return [index * step for index in range(start, stop + 1)]
