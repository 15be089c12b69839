"""Where a model can be cut: calls of frozen modules whose results depend on the input alone, and which of them count.

Nothing is assumed of the model's structure. A value is *moved* when it was computed, over any way, from a tensor that
may change in the run, or from a random number. A call of a module that holds frozen tensors alone and returns nothing
moved can be *served*: replaced by what it returned the last time. Of the served calls only those matter whose results
reach the loss by a way that is not cut off by another one: they are *kept*, the others may return anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec

from worker.trainer.prefix.flow import Call, Flow, Memory, Op, memory


class UncuttableError(Exception):
    """Why nothing can be cut off."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What two passes were made with: rows of the batch, and its width in tokens (0 without)."""

    rows: tuple[int, int]
    width: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor's shape by what its sizes stand for: "rows", "width" plus `more`, or a number."""

    sizes: tuple[int | str, ...]
    more: int = 0

    @property
    def row_first(self) -> bool:
        return bool(self.sizes) and self.sizes[0] == "rows" and "rows" not in self.sizes[1:]

    @property
    def ragged(self) -> int | None:
        """The one dimension that has the batch's width; None where there is none."""
        return self.sizes.index("width") if "width" in self.sizes else None

    @property
    def storable(self) -> bool:
        """Row by row, each as long as its own example."""
        return self.row_first and self.sizes.count("width") <= 1 and self.more >= 0

    def filled(self, rows: int, width: int) -> tuple[int, ...]:
        by_name = {"rows": rows, "width": width + self.more}
        return tuple(by_name[size] if isinstance(size, str) else size for size in self.sizes)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of what a served call returns; `kept` when it must be the real one."""

    shape: Shape
    dtype: torch.dtype
    kept: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A call to be replaced. `leaves` holds None where it returned something that is no tensor."""

    path: str
    module: nn.Module
    spec: TreeSpec
    leaves: tuple[Leaf | None, ...]
    others: tuple[object, ...]  # what it returned there


@dataclass(frozen=True, slots=True)
class Cut:
    """The calls to serve in the order of a pass, and their share of the pass's arithmetic."""

    served: tuple[Served, ...]
    share: float

    @property
    def kept(self) -> list[Leaf]:
        return [leaf for call in self.served for leaf in call.leaves if leaf is not None and leaf.kept]

    @property
    def modules(self) -> list[nn.Module]:
        return list({id(call.module): call.module for call in self.served}.values())


def find(flows: tuple[Flow, Flow], sides: Sides, *, still: Callable[[Tensor], bool], model: nn.Module) -> Cut:
    """The largest cut that both passes allow. UncuttableError says why there is none."""
    moving = {memory(each) for each in (*model.parameters(), *model.buffers()) if not still(each)}
    if any(len(flow.roots) != 1 or flow.roots[0].module is not model for flow in flows):
        raise UncuttableError("the objective does not call the model exactly once")
    calls = tuple(list(_ends(flow)) for flow in flows)
    if [(call.path, call.nth) for call in calls[0]] != [(call.path, call.nth) for call in calls[1]]:
        raise UncuttableError("the model's forward goes other ways for other batches")
    others = dict(zip(calls[0], calls[1], strict=True))
    moved = _moved(flows[0], moving)
    barred: set[Call] = set()
    while True:
        chosen = [call for root in flows[0].roots for call in _largest(root, moved, barred, still)]
        reached, escapes = _reached(flows[0], chosen)
        served = {call: _served(call, others[call], sides, reached) for call in chosen}
        bad = escapes | {call for call, made in served.items() if made is None}
        if not bad:
            break
        barred |= bad
    kept = tuple(made for made in served.values() if made is not None)
    if not any(leaf.kept for made in kept for leaf in made.leaves if leaf is not None):
        return Cut((), 0.0)
    return Cut(kept, _share(flows[0], chosen))


def _ends(flow: Flow) -> Iterable[Call]:
    return (event for event in flow.events if isinstance(event, Call))


def _moved(flow: Flow, moving: set[Memory]) -> set[Call]:
    """The calls that return something moved."""
    stained, found = set(moving), set()
    for event in flow.events:
        if isinstance(event, Call):
            if event.outputs & stained:
                found.add(event)
        elif event.random or event.reads & stained:
            if event.leaks and event.reads & stained and event.call is not None:
                raise UncuttableError(f"its forward lets Python read a value that trains ({event.name})")
            stained |= event.writes
    return found


def _largest(call: Call, moved: set[Call], barred: set[Call], still: Callable[[Tensor], bool]) -> Iterable[Call]:
    """Calls that can be served, none within another."""
    tensors = [*call.module.parameters(), *call.module.buffers()]
    holds = next(call.module.parameters(), None) is not None
    returns = any(isinstance(each, Tensor) for each in call.leaves)
    if holds and returns and call not in moved and call not in barred and all(map(still, tensors)):
        yield call
        return
    for child in call.children:
        yield from _largest(child, moved, barred, still)


def _reached(flow: Flow, chosen: list[Call]) -> tuple[set[Memory], set[Call]]:
    """Backward from the loss: which memory counts, and which served calls have an effect beside what they return."""
    wanted, escapes = set(flow.final), set()
    inside = set(chosen)
    for event in reversed(flow.events):
        if isinstance(event, Call) or not event.writes & wanted:
            continue
        owner = _owner(event, inside)
        if owner is None:
            wanted |= event.reads
        elif (event.writes & wanted) - owner.outputs:
            escapes.add(owner)
    return wanted, escapes


def _owner(op: Op, chosen: set[Call]) -> Call | None:
    call = op.call
    while call is not None and call not in chosen:
        call = call.parent
    return call


def _served(call: Call, other: Call, sides: Sides, reached: set[Memory]) -> Served | None:
    """None where what it returns is not understood, or is not a row per example."""
    assert call.spec is not None
    if call.spec != other.spec:
        return None
    leaves: list[Leaf | None] = []
    for one, two in zip(call.leaves, other.leaves, strict=True):
        if not isinstance(one, Tensor):
            leaves.append(None)
            continue
        shape = _shape(one, two, sides)
        kept = memory(one) in reached
        if shape is None or (kept and not shape.storable):
            return None
        leaves.append(Leaf(shape, one.dtype, kept))
    plain = tuple(None if isinstance(each, Tensor) else each for each in call.leaves)
    return Served(call.path, call.module, call.spec, tuple(leaves), plain)


def _shape(one: Tensor, two: Tensor, sides: Sides) -> Shape | None:
    """Read off from two passes that differ in rows and width, one more and one less."""
    if one.ndim != two.ndim:
        return None
    sizes: list[int | str] = []
    more: set[int] = set()
    for a, b in zip(one.shape, two.shape, strict=True):
        if (a, b) == sides.rows:
            sizes.append("rows")
        elif a == b:
            sizes.append(a)
        elif sides.width[0] and a - b == sides.width[0] - sides.width[1]:
            sizes.append("width")
            more.add(a - sides.width[0])
        else:
            return None
    return Shape(tuple(sizes), more.pop() if more else 0) if len(more) <= 1 else None


def _share(flow: Flow, chosen: list[Call]) -> float:
    inside = set(chosen)
    ops = [event for event in flow.events if isinstance(event, Op)]
    total = sum(op.flops for op in ops)
    return sum(op.flops for op in ops if _owner(op, inside) is not None) / total if total else 0.0
