"""Draws which layer moved when: a row for each layer, a column for each checkpoint, darker further from the base."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evidence.tables import Parameter
from app.pages.freeze_map import SHADES, WIDTH, layer_of, natural

#: Rows and columns that fit a page: the layers that moved most, and checkpoints that are evenly spread.
MOST_LAYERS, MOST_STEPS = 64, 16
#: Tensors whose histories are read, so that a page stays quick: the largest say where a layer is.
MOST_TENSORS: Final = 400
_LABELS, _ROW, _LOW_ROW, _FEW = 190.0, 16.0, 8.0, 32


@dataclass(frozen=True, slots=True)
class Move:
    """How far a tensor was from the base at a checkpoint: L2 norm of the change over that of the base."""

    layer: str
    step: int
    relative: float


def moves_of(session: Session, job_id: str) -> list[Move]:
    """Of the largest tensors that had moved at a checkpoint that the run has kept."""
    rows = session.execute(
        select(Parameter.name, Parameter.history)
        .where(Parameter.job_id == job_id, Parameter.changed.is_(True), Parameter.role != "frozen")
        .order_by(Parameter.elements.desc(), Parameter.position)
        .limit(MOST_TENSORS)
    )
    return [
        Move(layer, int(at["step"]), float(at["relative_l2"]))
        for layer, history in ((layer_of(name), history) for name, history in rows)
        for at in history or ()
        if isinstance(at.get("relative_l2"), int | float)
    ]


def draw(moves: Iterable[Move]) -> Markup | None:
    """The picture; None where fewer than two checkpoints were kept."""
    layers: dict[str, dict[int, float]] = {}
    for move in moves:
        row = layers.setdefault(move.layer, {})
        row[move.step] = max(row.get(move.step, 0.0), move.relative)
    steps = _spread(sorted({step for row in layers.values() for step in row}))
    if len(steps) < 2:
        return None
    most = sorted(layers, key=lambda name: -max(layers[name].values()))[:MOST_LAYERS]
    names = sorted(most, key=natural)
    height = _ROW if len(names) <= _FEW else _LOW_ROW
    parts = [_row(name, layers[name], steps, top=at * height, height=height) for at, name in enumerate(names)]
    bottom = len(names) * height
    return Markup(
        f'<svg class="map strip" viewBox="0 0 {WIDTH:g} {bottom + 18:.0f}" role="img" '
        f'aria-label="{escape(_summary(names, layers, steps))}">' + "".join(parts) + _axis(steps, bottom) + "</svg>"
    )


def _row(name: str, values: Mapping[int, float], steps: list[int], *, top: float, height: float) -> str:
    width = (WIDTH - _LABELS) / len(steps)
    cells: dict[str, str] = {}
    for at, step in enumerate(steps):
        if step in values:
            kind = _shade(values[step])
            left = _LABELS + at * width
            cells[kind] = cells.get(kind, "") + f"M{left:.1f} 0h{width - 1:.1f}v{height - 1:.0f}h-{width - 1:.1f}z"
    paths = "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in cells.items())
    title = ", ".join(f"step {step}: {values[step]:.2g}" for step in steps if step in values)
    short = name if len(name) <= 30 else f"…{name[-29:]}"
    label = f'<text x="0" y="{height - 5:.0f}">{escape(short)}</text>' if height >= _ROW else ""
    return f'<g transform="translate(0 {top:g})"><title>{escape(name)}: {title}</title>{label}{paths}</g>'


def _axis(steps: list[int], top: float) -> str:
    width = (WIDTH - _LABELS) / len(steps)
    every = max(1, math.ceil(len(steps) / 8))
    return "".join(
        f'<text x="{_LABELS + (at + 0.5) * width:.0f}" y="{top + 13:.0f}" text-anchor="middle">{step:,}</text>'
        for at, step in enumerate(steps)
        if at % every == 0
    )


def _shade(relative: float) -> str:
    return "t0" if relative == 0 else next(shade for limit, shade in SHADES if relative < limit or limit == math.inf)


def _spread(steps: list[int]) -> list[int]:
    if len(steps) <= MOST_STEPS:
        return steps
    return [steps[round(at * (len(steps) - 1) / (MOST_STEPS - 1))] for at in range(MOST_STEPS)]


def _summary(names: list[str], layers: Mapping[str, Mapping[int, float]], steps: list[int]) -> str:
    furthest = max(names, key=lambda name: max(layers[name].values()))
    return (
        f"Which layer moved when: {len(names)} layers at {len(steps)} checkpoints, from step {steps[0]:,} to "
        f"{steps[-1]:,}; {furthest} moved most"
    )
