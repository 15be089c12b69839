"""All frozen tensors under watch: when each freeze begins and ends, and whether the bytes are still the same."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from app.freeze.plan import FreezePlan
from worker.trainer.freeze.tensor_refs import TensorRef
from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.guard import Write, WriteGuard
from worker.trainer.witness.observe import digest, stored_bytes, unreadable
from worker.trainer.witness.report import IntervalDigests, Violation
from worker.trainer.witness.tripwires import Signs, Tripwire
from worker.trainer.witness.watched_tensor import WatchedTensor

Live = Mapping[str, TensorRef]  # the model's tensors as they are now


class NoticedWrites(Protocol):
    """Writes that were noticed as they were made."""

    @property
    def pending(self) -> bool:
        """Whether there are some that were not taken yet. It is asked at every step."""

    def take(self) -> Mapping[str, Write | None]:
        """Names of tensors that may have been written to since the last call, with what wrote where that is known."""


class Watchlist:
    """The watched tensors by live name. In every method `step` is the last update that was made."""

    def __init__(self, plan: FreezePlan, prints: Fingerprints, guard: WriteGuard | None, *, step: int) -> None:
        self.prints = prints
        self.watched = {
            name: WatchedTensor(name, decision, last_good=step)
            for decision in plan.decisions
            if decision.intervals
            for name in (decision.name, *decision.aliases)
        }
        self._guard = guard
        self.writes: NoticedWrites | None = None
        self._written: dict[str, Write | None] = {}  # taken from these, until the tensor's bytes are compared
        self._tripwires: dict[str, Tripwire] = {}
        self._signs: Signs | None = None  # of these tripwires; None when they have changed
        self._boundaries = {
            step for decision in plan.scheduled for bounds in decision.intervals for step in bounds if step is not None
        }

    @property
    def armed(self) -> bool:
        """Whether some tensor is frozen now and has not been seen to move."""
        return bool(self._tripwires)

    def boundary_after(self, step: int) -> bool:
        """Whether a freeze begins or ends after this update."""
        return step in self._boundaries

    def tripped(self) -> list[str]:
        """Names that were written to, or whose tripwire hints at a write."""
        self._take_writes()
        self._signs = self._signs or Signs(self._tripwires.values())
        if self._signs.unmoved() and not self._written:
            return []
        return [name for name, wire in self._tripwires.items() if name in self._written or wire.tripped()]

    def guard_saw_a_write(self) -> bool:
        return self._guard is not None and any(name in self._tripwires for name in self._guard.writes)

    def sizes(self, live: Live) -> dict[str, int]:
        """Bytes of each tensor that is frozen now."""
        tensors = {name: live[name].tensor for name, item in self.watched.items() if item.open and name in live}
        return {name: stored_bytes(tensor) for name, tensor in tensors.items() if tensor is not None}

    def differs(self, name: str, tensor: Tensor) -> bool:
        """Whether the name is frozen now and `tensor` has other bytes than it should."""
        item = self.watched[name]
        return item.open and item.difference(tensor, self.prints) is not None

    def compare(self, tensors: Mapping[str, Tensor], step: int) -> list[Violation]:
        """How these tensors differ from the frozen ones, missing names included. Records nothing."""
        violations = []
        for item in self.watched.values():
            if not item.open:
                continue
            tensor = tensors.get(item.name)
            what = "gone" if tensor is None else item.difference(tensor, self.prints)
            if what is not None:
                violations.append(Violation(item.name, item.last_good, step, None, what))
        return violations

    def open_freezes(self, live: Live, step: int) -> None:
        """Fingerprint every tensor whose freeze begins after `step`. TypeError names one without readable bytes."""
        for name, item in self.watched.items():
            if not item.begins(step) or name not in live:
                continue
            slot = live[name]
            assert slot.tensor is not None
            if (reason := unreadable(slot.tensor)) is not None:
                raise TypeError(f"the witness cannot watch '{name}': {reason}")
            item.known = item.fingerprints(slot.tensor, self.prints)
            item.watch_own_shard(slot.tensor, self.prints)
            item.last_good, item.violated = step, False
            if self._guard is not None:
                self._guard.writes.pop(name, None)
            self._set_tripwire(name, Tripwire.on(slot))
            if item.decision.scheduled and name == item.decision.name:
                stop = next(b for a, b in item.decision.intervals if a <= step and (b is None or step < b))
                item.intervals.append(IntervalDigests(step, stop, digest(slot.tensor), None))

    def follow_schedule(self, live: Live, step: int) -> None:
        """End the freezes that end after `step`, and begin those that begin there."""
        if not self.boundary_after(step):
            return
        for name, item in self.watched.items():
            if item.ends(step):
                self._end_interval(item, live)
                item.close()
                self._set_tripwire(name, None)
        self.open_freezes(live, step)
        self.aim_guard(live)

    def end_intervals(self, live: Live) -> None:
        """Record the digests with which the open freezes end, when the run itself ends."""
        for item in self.watched.values():
            if item.open:
                self._end_interval(item, live)

    def check(self, names: Iterable[str], live: Live, step: int) -> list[Violation]:
        """Compare the bytes behind these names, once per tensor; the violations that are new."""
        self._take_writes()
        violations = []
        for name in names:
            item, slot = self.watched[name], live.get(name)
            if not item.open or item.violated:
                continue
            if slot is None or slot.tensor is None:
                violations.append(self._violate(item, "gone", step))
            elif self._still_tied(item, live):
                self._rearm(name, slot)
            elif (what := item.difference(slot.tensor, self.prints)) is not None:
                violations.append(self._violate(item, what, step))
            else:
                item.last_good = step
                self._written.pop(name, None)
                item.watch_own_shard(slot.tensor, self.prints)
                self._rearm(name, slot)
        return violations

    def aim_guard(self, live: Live) -> None:
        """Have the write-guard follow what is frozen now, where its memory is now."""
        if self._guard is None:
            return
        names = [name for name, item in self.watched.items() if item.open and not self._still_tied(item, live)]
        tensors = {name: live[name].tensor for name in names if name in live}
        self._guard.watch({name: tensor for name, tensor in tensors.items() if tensor is not None})

    def _take_writes(self) -> None:
        if self.writes is not None and self.writes.pending:
            taken = self.writes.take()
            self._written |= {name: write for name, write in taken.items() if name in self._tripwires}

    def _end_interval(self, item: WatchedTensor, live: Live) -> None:
        tensor = live[item.name].tensor if item.name in live else None
        if item.intervals and tensor is not None:
            item.intervals[-1] = replace(item.intervals[-1], after=digest(tensor))

    def _still_tied(self, item: WatchedTensor, live: Live) -> bool:
        """Whether the name is an alias that still shares its tensor, which is checked under its own name."""
        own, alias = live.get(item.decision.name), live.get(item.name)
        return item.name != item.decision.name and own is not None and alias is not None and own.tensor is alias.tensor

    def _rearm(self, name: str, slot: TensorRef) -> None:
        old = self._tripwires.get(name)
        wire = Tripwire.on(slot)
        if old is not None:
            wire.false_alarms = old.false_alarms + old.tripped()
        self._set_tripwire(name, wire)

    def _set_tripwire(self, name: str, wire: Tripwire | None) -> None:
        self._signs = None
        if wire is None:
            self._tripwires.pop(name, None)
        else:
            self._tripwires[name] = wire

    def _violate(self, item: WatchedTensor, what: str, step: int) -> Violation:
        item.violated = True
        self._set_tripwire(item.name, None)
        write = self._written.pop(item.name, None)
        if self._guard is not None:
            write = self._guard.writes.get(item.name)
        last_good = max(step - 1, item.last_good) if write else item.last_good
        return Violation(item.name, last_good, step, str(write) if write else None, what)
