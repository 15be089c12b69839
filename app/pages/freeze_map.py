"""Draws a job's tensors as SVG: a row for each layer, area by parameters, colour by what became of each tensor."""

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, Final

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evidence.tables import Parameter
from app.freeze.plan import Decision

WIDTH: Final = 720.0
#: Heights in pixels: of all rows together, of the lowest row, and of what is between two.
_HEIGHT, _LOWEST, _GAP = 240.0, 4.0, 1.0
#: Of a usual row, where there are so many that together they are higher than that.
_ROW: Final = 5.0
#: Trained tensors by their relative change: the first limit that is above it gives the shade.
SHADES: Final = ((1e-4, "t1"), (1e-3, "t2"), (1e-2, "t3"), (1e-1, "t4"), (math.inf, "t5"))
#: Roles of a plan's tensors, before anything has trained.
_PLANNED: Final = {"to be frozen": "f", "to be trained": "t3", "frozen in part": "s", "same": "f"}
_LABELLED: Final = 13.0
_DIGEST: Final = 8

#: What the classes stand for, in the order of the key.
KEY: Final = (
    ("f", "frozen, the base's bytes"),
    ("v", "changed though frozen"),
    ("t0", "trained, unchanged"),
    ("t3", "trained, darker the more it changed"),
    ("s", "frozen in part, or for some steps"),
    ("n", "new, no base to compare with"),
    ("b", "buffer, or not stored"),
)


@dataclass(frozen=True)
class DrawnTensor:
    """What the picture shows of one tensor."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    changed: bool | None
    relative: float | None  # L2 norm of its change over that of the base
    sha256: str | None

    @cached_property
    def kind(self) -> str:
        """The class of its colour, as in KEY."""
        if self.role in _PLANNED:
            return _PLANNED[self.role]
        if self.role == "frozen":
            return "v" if self.changed else "f"
        if self.role in ("split", "scheduled"):
            return "s"
        if self.role == "new":
            return "n"
        if self.role != "trainable" or self.changed is None:
            return "b"
        if not self.changed:
            return "t0"
        shade = bisect_right(SHADES, self.relative or 0.0, key=lambda shade: shade[0])
        return SHADES[min(shade, len(SHADES) - 1)][1]  # the change of weights that are not finite is infinite

    def text(self, layer: str, *, full: bool) -> str:
        """Name, shape, what became of it, and its digest; a short form where thousands are on a page."""
        shape = "×".join(map(str, self.shape)) or "scalar"
        if not full:
            name = self.name.removeprefix(f"{layer}.")
            return " ".join(filter(None, (name, shape, self._short(), (self.sha256 or "")[:_DIGEST])))
        change = "" if self.relative is None else f" {self.relative:.2g}"
        return " · ".join(filter(None, (self.name, f"{self.dtype} {shape}", self._state() + change, self.sha256)))

    def _state(self) -> str:
        if self.role in _PLANNED:
            return self.role
        words = {"f": "identical", "v": "CHANGED though frozen", "t0": "unchanged", "n": "new", "s": self.role}
        return words.get(self.kind, self.role if self.changed is None else "changed")

    def _short(self) -> str:
        """Its state as the line below the picture explains it: `=` for the base's bytes, `Δ` with the change."""
        if self.role in _PLANNED:
            return self.role
        amount = "" if self.relative is None else f"{self.relative:.2g}"
        if self.kind == "v":
            return f"CHANGED though frozen Δ{amount}"
        if self.changed is None:
            return self.role
        return f"Δ{amount}" if self.changed else "="


def planned(decision: Decision) -> DrawnTensor:
    """What a plan says of a tensor, to be drawn before the job exists."""
    role = {"freeze": "to be frozen", "train": "to be trained"}.get(decision.action, "frozen in part")
    role = "frozen in part" if decision.scheduled else role
    return DrawnTensor(decision.name, role, decision.shape, decision.dtype, decision.elements, None, None, None)


def tensors_of(session: Session, job_id: str) -> list[DrawnTensor]:
    """The tensors of a job that has ended; none of one without evidence."""
    relative = Parameter.stats["relative_l2"].as_float()
    columns = (Parameter.name, Parameter.role, Parameter.shape, Parameter.dtype, Parameter.elements, Parameter.changed)
    rows = session.execute(
        select(*columns, relative, Parameter.result_sha256)
        .where(Parameter.job_id == job_id)
        .order_by(Parameter.position)
    )
    return [DrawnTensor(name, role, tuple(shape), *rest) for name, role, shape, *rest in rows]


def draw(tensors: Sequence[DrawnTensor], *, full: bool = False) -> Markup | None:
    """The picture; None without tensors. `full` names and digests make it larger: for a document of its own."""
    layers = _layers(tensor for tensor in tensors if tensor.elements)
    if not layers:
        return None
    total = sum(tensor.elements for _, inside in layers for tensor in inside)
    parts: list[str] = []
    top = 0.0
    for name, inside in layers:
        share = sum(tensor.elements for tensor in inside) / total
        height = max(_LOWEST, share * max(_HEIGHT, len(layers) * _ROW))
        parts.append(_layer(name, inside, top=top, height=height, full=full))
        top += height + _GAP
    return Markup(
        f'<svg class="map" tabindex="0" viewBox="0 0 {WIDTH:g} {top - _GAP:.0f}" role="img" '
        f'aria-label="{escape(_summary(tensors))}">'
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="line" d="M0 0v6"/></pattern></defs>' + "".join(parts) + "</svg>"
    )


def layer_of(name: str) -> str:
    """The part of a name up to the first number, which is a layer's; else all but its last two parts.

    `bert.encoder.layer.3` of `bert.encoder.layer.3.output.dense.bias`, and `bert.embeddings` of
    `bert.embeddings.LayerNorm.bias`.
    """
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: at + 1])
    return ".".join(parts[: max(1, len(parts) - 2)])


def _layers(tensors: Iterable[DrawnTensor]) -> list[tuple[str, list[DrawnTensor]]]:
    """The tensors by layer; layers by name, in which numbers count as numbers."""
    layers: dict[str, list[DrawnTensor]] = {}
    for tensor in tensors:
        layers.setdefault(layer_of(tensor.name), []).append(tensor)
    return sorted(layers.items(), key=lambda item: natural(item[0]))


def natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _layer(name: str, tensors: Sequence[DrawnTensor], *, top: float, height: float, full: bool) -> str:
    """One row: the layer's whole width, shared by its tensors. A tensor has its own colour where most have another."""
    size = sum(tensor.elements for tensor in tensors)
    kinds = [tensor.kind for tensor in tensors]
    usual = max(sorted(set(kinds)), key=kinds.count)
    parts, left = [], 0.0
    for tensor, kind in zip(tensors, kinds, strict=True):
        width = WIDTH * tensor.elements / size
        own = "" if kind == usual else f' class="{kind}"'
        title = escape(tensor.text(name, full=full), quote=False)
        shape = f"M{left:.4g} 0h{width:.3g}v{height:.3g}h-{width:.3g}"
        parts.append(f'<path{own} d="{shape}"><title>{title}</title></path>')
        left += width
    label = f'<text x="6" y="{height / 2 + 4:.0f}">{escape(name)}</text>' if height >= _LABELLED else ""
    place = f'class="{usual}" transform="translate(0 {top:.5g})" aria-label="{escape(name)}"'
    return f"<g {place}>" + "".join(parts) + label + "</g>"


def _summary(tensors: Sequence[DrawnTensor]) -> str:
    words = {"f": "frozen", "v": "changed though frozen"} | dict.fromkeys(("t0", *(s for _, s in SHADES)), "trained")
    counts = Counter(words.get(tensor.kind, "other") for tensor in tensors)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"Freeze map: {len(tensors):,} tensors in their layers, area by parameters: {listed}. Arrow keys read them."
