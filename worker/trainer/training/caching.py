"""The frozen prefix of a run, computed once for each example: when it may be, and that it stays what it was.

What `hyperparameters.prefix_cache` means, and why, is in docs/prefix-cache.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from app.freeze.plan import FreezePlan
from worker.protocol import Reporter
from worker.trainer import determinism
from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.sampler import Positions
from worker.trainer.prefix import reports
from worker.trainer.prefix.cut import Cut, UncuttableError, find
from worker.trainer.prefix.flow import Flow, follow, memory
from worker.trainer.prefix.kept_results import KeptResults, nbytes
from worker.trainer.prefix.sampling import digest, in_order, row_lengths, two_batches
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training.memory import ran_out
from worker.trainer.training.stop import StopRequest
from worker.trainer.witness.observe import observe

LEAST_SHARE = 0.1  # of a forward pass's arithmetic, below which keeping results is not worth it
MEMORY_BYTES = 1 << 30  # beyond, results lie in a file
MOST_BYTES = 64 << 30
REPORT_SECONDS = 5.0
NO_PARAMETER = "no parameter is frozen for the whole run"
NOTHING = "no module that is frozen as a whole gives results that depend on the input alone"

Compute = Callable[[Batch], tuple[Tensor, Tensor]]
Parts = dict[str, Examples]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the decision is made from. The same in every attempt at a job."""

    wish: bool | str  # True, False or "auto"
    model: nn.Module
    plan: FreezePlan
    live: Mapping[str, Tensor]
    compute: Compute  # loss and outputs of a batch, as training computes them
    parts: Parts
    size: int  # examples that go through the model at a time
    reuse: bool  # whether any example is seen more than once
    device: torch.device
    precision: str
    compiled: bool = False


@dataclass(slots=True, kw_only=True)
class Caching:
    """A prefix in use. Without `rows` its results are computed for each batch: the same run, and no faster."""

    asked: Asked
    prefix: Prefix
    names: tuple[str, ...]  # of the tensors that the prefix is made of
    digests: dict[str, str]
    reporter: Reporter
    rows: dict[str, KeptResults] = field(default_factory=dict)
    seconds: float = 0.0  # that filling them took

    @contextmanager
    def serving(self, batch: Batch, examples: Examples) -> Iterator[None]:
        """Within, the model computes on from the prefix's kept results for this batch."""
        assert batch.rows is not None
        part = next((name for name, each in self.asked.parts.items() if each is examples), None)
        if part in self.rows:
            values = [each.to(self.asked.device) for each in self.rows[part].get(batch.rows, batch.width)]
        else:
            values = self.prefix.capture(lambda: self.asked.compute(batch))
        with self.prefix.served(values, rows=len(batch.rows), width=batch.width):
            yield

    def changed(self) -> list[str]:
        """Tensors of the prefix that are not what they were when its results were computed."""
        now = observe(self.asked.model, self.names)
        return sorted(name for name in self.names if now[name] != self.digests[name])

    def close(self) -> None:
        """Look at the prefix once more, say so, and give the model back as it was."""
        changed = self.changed()
        self.prefix.remove()
        if changed:
            message = (
                f"the frozen prefix changed while its results were in use ({', '.join(changed[:5])}): training went on "
                "from what it gave before"
            )
            self.reporter.event(message, level="error", tensors=changed[:100])
        else:
            message = f"the frozen prefix is what it was when its results were computed ({len(self.names)} tensors)"
            self.reporter.event(message)


def begin(asked: Asked, folder: Path, reporter: Reporter, stop: StopRequest) -> Caching | None:
    """The prefix with its results for every example, in memory or in `folder`; None, and an event, where it cannot be.

    Under `true` a prefix whose results find no room is still one: what is trained must not depend on the disk.
    """
    caching = settle(asked, reporter)
    if caching is not None and not fill(caching, folder, stop) and asked.wish == "auto":
        caching.prefix.remove()
        return None
    return caching


def settle(asked: Asked, reporter: Reporter) -> Caching | None:
    """The prefix, ready to be filled, or None with the reason in an event. It depends on model, data and plan alone."""
    if asked.wish is False:
        reports.off(reporter, "prefix_cache is false")
        return None
    if asked.wish == "auto" and not any(each.kind == "parameter" for each in asked.plan.frozen):
        reports.off(reporter, NO_PARAMETER)
        return None
    try:
        _refuse_conditions(asked)
        cut, still = _cut(asked)
        prefix = Prefix(asked.model, cut)
        try:
            names = _names(asked, cut, still)
            digests = observe(asked.model, names)
            caching = Caching(asked=asked, prefix=prefix, names=names, digests=digests, reporter=reporter)
            _refuse_other_results(caching)
        except BaseException:
            prefix.remove()
            raise
    except UncuttableError as why:
        level = "warn" if asked.wish is True else "info"
        reporter.event(f"the frozen prefix is computed anew at every step: {why}", level=level)
        reports.off(reporter, str(why))
        return None
    return caching


def fill(caching: Caching, folder: Path, stop: StopRequest) -> bool:
    """Compute the prefix for every example, in memory or in `folder`. False, and an event, where there is no room."""
    asked, leaves = caching.asked, caching.prefix.cut.kept
    sizes = {name: row_lengths(examples, asked.size) for name, examples in asked.parts.items()}
    total = sum(nbytes(leaves, count, lengths) for count, lengths in sizes.values())
    home = folder / f"prefix-{_key(caching)}" if total > MEMORY_BYTES else None
    _clear(folder, but=home)
    try:
        if total > MOST_BYTES:
            raise OSError(f"they would take {total:,} bytes, and {MOST_BYTES:,} is the most that are kept")
        for name, (count, lengths) in sizes.items():
            place = home / name if home else None
            caching.rows[name] = KeptResults(leaves, count, lengths=lengths, folder=place)
    except OSError as error:
        caching.rows.clear()
        caching.reporter.event(f"the frozen prefix's results are not kept: {error}", level="warn")
        reports.off(caching.reporter, f"its results are not kept: {error}")
        return False
    caching.reporter.stage("caching")
    began = time.monotonic()
    reused = sum(_fill(caching, name, stop) for name in asked.parts)
    caching.seconds = time.monotonic() - began
    examples = sum(len(each) for each in asked.parts.values())
    stored: reports.StoredIn = "file" if home else "memory"
    reports.kept(
        caching.reporter,
        caching.prefix.cut,
        examples=examples,
        size=total,
        stored=stored,
        quiet=asked.wish is True,
        seconds=caching.seconds,
        reused=reused,
    )
    return True


def _fill(caching: Caching, name: str, stop: StopRequest) -> int:
    """One part of the data; returns how many examples an earlier attempt had computed."""
    asked, rows = caching.asked, caching.rows[name]
    examples = asked.parts[name]
    reused = done = 0
    told = time.monotonic()
    for at, positions in enumerate(in_order(examples, asked.size)):
        stop.raise_if_asked()
        batch = examples.batch(positions)
        assert batch.rows is not None
        own = _own(batch.rows, len(positions), len(examples) - done)
        inputs = digest(batch)
        if rows.holds(str(at), inputs, batch.rows[own]):
            reused += min(len(positions), len(examples) - done)
        else:
            moved = batch.to(asked.device)
            values = caching.prefix.capture(lambda moved=moved: asked.compute(moved))  # type: ignore[misc]
            rows.put(batch.rows[own], [value[torch.from_numpy(own).to(value.device)] for value in values])
            rows.note(str(at), inputs, batch.rows[own])
        done = min(done + len(positions), len(examples))
        if time.monotonic() - told >= REPORT_SECONDS:
            told = time.monotonic()
            caching.reporter.event(f"frozen prefix: {done} of {len(examples)} examples of the {name} data are computed")
    return reused


def _own(rows: Positions, examples: int, left: int) -> Positions:
    """Which rows of a batch are its own: the last batch is filled up with rows that others hold."""
    real = min(examples, left)
    per = len(rows) // examples
    return np.concatenate([np.arange(real, dtype=np.int64) + side * examples for side in range(per)])


def _refuse_conditions(asked: Asked) -> None:
    """What needs no pass to be known."""
    policy = asked.plan.policy
    if not policy.enforce:
        raise UncuttableError("in an audit (enforce: false) frozen tensors may move")
    if policy.on_violation == "continue":
        raise UncuttableError("with on_violation 'continue' training goes on with frozen tensors that moved")
    if not any(each.kind == "parameter" for each in asked.plan.frozen):
        raise UncuttableError(NO_PARAMETER)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise UncuttableError("the run is on several devices")
    if asked.compiled:
        raise UncuttableError("the model is compiled")
    if asked.wish == "auto" and not asked.reuse:
        raise UncuttableError("every example is seen once")
    frozen = {memory(asked.live[each.name]) for each in asked.plan.frozen}
    if not any(_frozen_whole(module, frozen) for module in asked.model.modules()):
        raise UncuttableError(NOTHING)  # before any pass


def _frozen_whole(module: nn.Module, frozen: set[int]) -> bool:
    parameters = [memory(each) for each in module.parameters()]
    return bool(parameters) and frozen.issuperset(parameters)


def _cut(asked: Asked) -> tuple[Cut, set[int]]:
    """Where to cut, and the memory of what stays still. Passes are made with small batches, and leave no trace."""
    one, two, sides = two_batches(asked.parts["training"])
    pair = (one.to(asked.device), two.to(asked.device))
    training, moved = _trained_passes(asked, pair)
    still = {memory(asked.live[each.name]) for each in asked.plan.frozen}
    still |= {memory(asked.live[each.name]) for each in asked.plan.tracked} - moved

    def is_still(tensor: Tensor) -> bool:
        return memory(tensor) in still

    asked.model.eval()
    quiet = _passes(asked, pair)
    asked.model.train()
    cut = find(quiet, sides, still=is_still, model=asked.model)
    _refuse_small(cut, "what is frozen for the whole run and depends on the input alone")
    if asked.wish is True:
        return cut, still
    cut = find(training, sides, still=is_still, model=asked.model)
    _refuse_small(
        cut,
        "dropout acts in the frozen layers, and keeping their results would turn it off, which is another run "
        "(prefix_cache true asks for that); what is left of them",
    )
    return cut, still


def _refuse_small(cut: Cut, what: str) -> None:
    if not cut.served:
        raise UncuttableError(NOTHING)
    if cut.share < LEAST_SHARE:
        share, least = f"{cut.share:.1%}", f"{LEAST_SHARE:.0%}"
        raise UncuttableError(f"{what} is {share} of a forward pass, and less than {least} saves nothing")


def _passes(asked: Asked, pair: tuple[Batch, Batch]) -> tuple[Flow, Flow]:
    try:
        flows = [follow(asked.model, lambda batch=batch: asked.compute(batch)) for batch in pair]  # type: ignore[misc]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if ran_out(error):
            raise
        raise UncuttableError(f"the model does not run on parts of its data: {error}") from error
    return flows[0], flows[1]


def _trained_passes(asked: Asked, pair: tuple[Batch, Batch]) -> tuple[tuple[Flow, Flow], set[int]]:
    """Passes in training mode, and the buffers that they moved; everything that moved is put back."""
    before = {each.name: asked.live[each.name].clone() for each in asked.plan.tracked}
    asked.model.train()
    flows = _passes(asked, pair)
    moved = set()
    with torch.no_grad():
        for name, old in before.items():
            now = asked.live[name]
            if not torch.equal(now.view(-1).view(torch.uint8), old.view(-1).view(torch.uint8)):
                moved.add(memory(now))
                now.copy_(old)
    return flows, moved


def _names(asked: Asked, cut: Cut, still: set[int]) -> tuple[str, ...]:
    """Every still tensor that a served module holds, and the still buffers that may feed it."""
    held = {memory(each) for module in cut.modules for each in (*module.parameters(), *module.buffers())}
    held |= {memory(asked.live[each.name]) for each in asked.plan.tracked} & still
    return tuple(sorted(name for name, tensor in asked.live.items() if memory(tensor) in held))


def _refuse_other_results(caching: Caching) -> None:
    """Try it: from results kept row by row, in batches of other widths, a batch must give what it gives computed live.

    Whatever was not to be read of the prefix is no number then, so a use that was not foreseen shows as well.
    """
    asked = caching.asked
    examples = asked.parts["training"]
    order = list(in_order(examples, 1))
    few = np.concatenate([order[at] for at in sorted({0, len(order) // 3, 2 * len(order) // 3, len(order) - 1})])
    whole = examples.batch(few).to(asked.device)
    assert whole.rows is not None
    lengths = whole.inputs["attention_mask"].sum(dim=1).cpu().numpy() if whole.width else None
    local = {int(row): at for at, row in enumerate(whole.rows)}
    rows = KeptResults(caching.prefix.cut.kept, len(whole.rows), lengths=lengths)
    asked.model.eval()
    try:
        for part in np.array_split(few, 2) if len(few) > 1 else [few]:
            batch = examples.batch(part).to(asked.device)
            assert batch.rows is not None
            found = caching.prefix.capture(lambda batch=batch: asked.compute(batch))  # type: ignore[misc]
            rows.put(np.array([local[int(row)] for row in batch.rows]), found)
        values = [each.to(asked.device) for each in rows.get(np.arange(len(whole.rows)), whole.width)]
        with torch.no_grad():
            live = _meant(asked, whole)
            with caching.prefix.served(values, rows=len(whole.rows), width=whole.width):
                kept = _meant(asked, whole)
        _refuse_if_trained_otherwise(caching, whole)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UncuttableError(f"its forward does not run without it: {error}") from error
    finally:
        asked.model.train()
    tolerance = 1e-3 if all(leaf.dtype.itemsize >= 4 for leaf in caching.prefix.cut.kept) else 0.1
    if not all(_near(a, b, tolerance) for a, b in zip(live, kept, strict=True)):
        raise UncuttableError("from kept results the model gives something else, so it uses more than was found")


def _meant(asked: Asked, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss and outputs, without those at positions that only fill a row up."""
    (loss, outputs), mask = asked.compute(batch), batch.inputs.get("attention_mask")
    return loss, outputs if mask is None or outputs.shape[:-1] != mask.shape else outputs[mask.bool()]


def _refuse_if_trained_otherwise(caching: Caching, batch: Batch) -> None:
    """Under "auto" the prefix must give the same bits in training as it does in eval mode."""
    asked = caching.asked
    if asked.wish is True:
        return
    quiet = caching.prefix.capture(lambda: asked.compute(batch))
    training = caching.prefix.capture(lambda: asked.compute(batch), training=True)
    if not all(_same_bits(a, b) for a, b in zip(quiet, training, strict=True)):
        raise UncuttableError(
            "the frozen layers compute something else in training than in eval mode, and keeping results is eval mode "
            "(prefix_cache true asks for that)"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    a, b = (each.contiguous().view(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(a, b)


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    a, b = one.double(), other.double()
    if a.shape != b.shape or not torch.isfinite(b).equal(torch.isfinite(a)):
        return False
    return bool(torch.allclose(a.nan_to_num(), b.nan_to_num(), rtol=tolerance, atol=tolerance * _scale(a)))


def _scale(values: Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return max(1e-6, float(finite.abs().max())) if len(finite) else 1.0


def _key(caching: Caching) -> str:
    """Results in a file may be used again where all of this is the same; the examples have digests of their own."""
    asked = caching.asked
    content = {
        "prefix": caching.digests,
        "leaves": [[call.path, str(leaf)] for call in caching.prefix.cut.served for leaf in call.leaves],
        "size": asked.size,
        "precision": asked.precision,
        "environment": determinism.environment(asked.device),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _clear(folder: Path, *, but: Path | None) -> None:
    """Files of another prefix take room that this one may need."""
    for path in folder.glob("prefix-*"):
        if path != but:
            shutil.rmtree(path, ignore_errors=True)
