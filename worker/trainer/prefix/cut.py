"""Where a model can be cut: calls of frozen modules whose results depend on the input alone, and which results count.

Nothing is assumed about the model's structure; everything is read off two recorded passes. Three steps:

1. A value has *moved* if it was computed, over any number of operations, from a tensor that may change in the run or
   from a random number. A call of a module can be *served*, that is replaced by its stored results, if the module holds
   frozen tensors only and returns nothing that has moved. The largest such calls are taken.
2. Backward from the loss: a served call's result is *kept* (stored) if the loss depends on it other than through
   another served call. The remaining results of served calls may be anything.
3. A call whose results cannot be stored row by row, or that changes memory other than what it returns, is barred, and
   its inner calls are tried instead, until nothing is barred any more.

For a frozen BERT encoder under a trained classifier, the calls of `embeddings` and `encoder` are served, and the last
hidden state is the only result that is kept: the embeddings' output is used by the encoder alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils._pytree import TreeSpec

from worker.trainer.prefix.flow import Call, Flow, Memory, Op, memory
from worker.trainer.prefix.shapes import BatchSizes, Leaf, shape_of

#: Arithmetic that takes about as long as moving a byte to or from memory.
FLOPS_PER_BYTE = 8

IsStill = Callable[[Tensor], bool]  # whether a tensor keeps its bytes for the whole run


class UncuttableError(Exception):
    """Why a model has no frozen prefix whose results could be kept."""


@dataclass(frozen=True, slots=True)
class Served:
    """A call to be replaced by its results. `leaves` has None where it returned something other than a tensor."""

    path: str
    module: nn.Module
    spec: TreeSpec
    leaves: tuple[Leaf | None, ...]
    others: tuple[object, ...]  # the results that are not tensors


@dataclass(frozen=True, slots=True)
class Cut:
    """The calls to serve, in the order of a pass, and their share of the pass's arithmetic.

    `saved` is the share of the pass's cost, arithmetic and memory traffic, that serving them saves. It is counted and
    not timed, so that every attempt at a job comes to the same decision. `reads_inputs`: something outside of the
    calls reads the batch's inputs.
    """

    served: tuple[Served, ...]
    share: float
    saved: float
    reads_inputs: bool = True

    @property
    def kept(self) -> list[Leaf]:
        return [leaf for call in self.served for leaf in call.leaves if leaf is not None and leaf.kept]

    @property
    def modules(self) -> list[nn.Module]:
        return list({id(call.module): call.module for call in self.served}.values())


def find(flows: tuple[Flow, Flow], batches: BatchSizes, *, still: IsStill, model: nn.Module) -> Cut:
    """The largest cut that both passes allow; one without calls if there is none. UncuttableError if none can exist."""
    flow = flows[0]
    same_call = _matched_calls(flows, model)
    moving = {memory(tensor) for tensor in (*model.parameters(), *model.buffers()) if not still(tensor)}
    moved = _calls_that_moved(flow, moving)

    barred: set[Call] = set()
    while True:
        chosen = list(_largest_calls(flow.roots[0], still, excluded=moved | barred))
        needed, with_side_effects = _needed_memory(flow, chosen)
        served = {call: _served(call, same_call[call], batches, needed) for call in chosen}
        unusable = with_side_effects | {call for call, replacement in served.items() if replacement is None}
        if not unusable:
            break
        barred |= unusable

    replacements = tuple(replacement for replacement in served.values() if replacement is not None)
    inside = _inside(flow, chosen)
    reads = _reads_inputs(flow, chosen)
    cut = Cut(replacements, _share(flow, inside), _saved(flow, inside, replacements, batches), reads)
    return cut if cut.kept else Cut((), 0.0, 0.0)


def _matched_calls(flows: tuple[Flow, Flow], model: nn.Module) -> Mapping[Call, Call]:
    """Each call of the first pass with the same call of the second one."""
    if any(len(flow.roots) != 1 or flow.roots[0].module is not model for flow in flows):
        raise UncuttableError("the objective does not call the model exactly once")
    first, second = ([event for event in flow.events if isinstance(event, Call)] for flow in flows)
    if [(call.path, call.nth) for call in first] != [(call.path, call.nth) for call in second]:
        raise UncuttableError("the model's forward goes other ways for other batches")
    return dict(zip(first, second, strict=True))


def _calls_that_moved(flow: Flow, moving: set[Memory]) -> set[Call]:
    """The calls that return something that has moved, found by following values forward from the `moving` memory."""
    moved = set(moving)
    calls = set()
    for event in flow.events:
        if isinstance(event, Call):
            if event.outputs & moved:
                calls.add(event)
        elif event.random or event.reads & moved:
            if event.leaks and event.reads & moved and event.call is not None:
                raise UncuttableError(f"its forward lets Python read a value that trains ({event.name})")
            moved |= event.writes
    return calls


def _largest_calls(call: Call, still: IsStill, *, excluded: set[Call]) -> Iterator[Call]:
    """Calls that can be served, none inside another."""
    if call not in excluded and _only_still_tensors(call.module, still) and call.outputs:
        yield call
        return
    for child in call.children:
        yield from _largest_calls(child, still, excluded=excluded)


def _only_still_tensors(module: nn.Module, still: IsStill) -> bool:
    """Whether a module has parameters, and they and its buffers keep their bytes."""
    has_parameters = next(module.parameters(), None) is not None
    return has_parameters and all(map(still, (*module.parameters(), *module.buffers())))


def _needed_memory(flow: Flow, chosen: list[Call]) -> tuple[set[Memory], set[Call]]:
    """Followed backward from the loss: the memory that it depends on when the `chosen` calls are served.

    Also the chosen calls that write to such memory without returning it: serving them would lose that effect.
    """
    needed, with_side_effects = set(flow.final), set()
    inside = set(chosen)
    for event in reversed(flow.events):
        if isinstance(event, Call) or not event.writes & needed:
            continue
        owner = _enclosing(event, inside)
        if owner is None:
            needed |= event.reads
        elif (event.writes & needed) - owner.outputs:
            with_side_effects.add(owner)
    return needed, with_side_effects


def _enclosing(op: Op, calls: set[Call]) -> Call | None:
    """The call among these that an operation was made in."""
    call = op.call
    while call is not None and call not in calls:
        call = call.parent
    return call


def _served(call: Call, same: Call, batches: BatchSizes, needed: set[Memory]) -> Served | None:
    """The call's replacement; None if its results do not have a row per example, or changed their structure."""
    assert call.spec is not None
    if call.spec != same.spec:
        return None
    leaves: list[Leaf | None] = []
    for first, second in zip(call.leaves, same.leaves, strict=True):
        if not isinstance(first, Tensor):
            leaves.append(None)
            continue
        shape, kept = shape_of(first, second, batches), memory(first) in needed
        if shape is None or (kept and not shape.storable):
            return None
        leaves.append(Leaf(shape, first.dtype, kept))
    others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in call.leaves)
    return Served(call.path, call.module, call.spec, tuple(leaves), others)


def _inside(flow: Flow, chosen: list[Call]) -> list[Op]:
    calls = set(chosen)
    return [event for event in flow.events if isinstance(event, Op) and _enclosing(event, calls) is not None]


def _reads_inputs(flow: Flow, chosen: list[Call]) -> bool:
    calls = set(chosen)
    outside = (event for event in flow.events if isinstance(event, Op) and _enclosing(event, calls) is None)
    return not flow.inputs or any(event.reads & flow.inputs for event in outside)


def _share(flow: Flow, inside: list[Op]) -> float:
    """Of the pass's arithmetic that is inside the chosen calls."""
    total = sum(event.flops for event in flow.events if isinstance(event, Op))
    return sum(op.flops for op in inside) / total if total else 0.0


def _saved(flow: Flow, inside: list[Op], served: Sequence[Served], batches: BatchSizes) -> float:
    """Of the pass's cost that is inside the chosen calls, less that of fetching their results; may be negative."""
    total = sum(_cost(event) for event in flow.events if isinstance(event, Op))
    rows, width = batches.rows[0], batches.width[0]
    leaves = [leaf for call in served for leaf in call.leaves if leaf is not None and leaf.kept]
    fetched = sum(math.prod(leaf.shape.filled(rows, width)) * leaf.dtype.itemsize for leaf in leaves)
    return (sum(map(_cost, inside)) - 2 * FLOPS_PER_BYTE * fetched) / total if total else 0.0


def _cost(op: Op) -> int:
    """In units of one arithmetic operation: what it writes was read somewhere."""
    return op.flops + 2 * FLOPS_PER_BYTE * op.nbytes
