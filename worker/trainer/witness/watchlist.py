"""Every name under watch: when its freeze opens and closes, and whether its bytes are still the same."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from app.freeze.plan import FreezePlan
from worker.trainer.freeze.slots import Slot
from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.guard import WriteGuard
from worker.trainer.witness.observe import digest
from worker.trainer.witness.report import Interval, Violation
from worker.trainer.witness.tripwires import Wire
from worker.trainer.witness.watch import Watch, difference


class Watchlist:
    """Of a plan's frozen tensors, by live name. `live` is the model as it is now, `step` the last update made."""

    def __init__(self, plan: FreezePlan, prints: Fingerprints, guard: WriteGuard | None, *, step: int) -> None:
        self.prints = prints
        self.watches = {
            name: Watch(name, decision, last_good=step)
            for decision in plan.decisions
            if decision.intervals
            for name in (decision.name, *decision.aliases)
        }
        self._guard = guard
        self._wires: dict[str, Wire] = {}
        self._boundaries = {step for d in plan.scheduled for bounds in d.intervals for step in bounds}

    @property
    def armed(self) -> bool:
        """Whether a tensor is frozen now that has not been seen to move."""
        return bool(self._wires)

    def turns_at(self, step: int) -> bool:
        """Whether a freeze begins or ends behind this update."""
        return step in self._boundaries

    def tripped(self) -> list[str]:
        """Names of which a tripwire hints that something may have moved."""
        return [name for name, wire in self._wires.items() if wire.tripped()]

    def sizes(self, live: Mapping[str, Slot]) -> dict[str, int]:
        """Bytes of each tensor that is frozen now."""
        frozen = {name: live[name].tensor for name, watch in self.watches.items() if watch.open and name in live}
        return {name: tensor.nbytes for name, tensor in frozen.items() if tensor is not None}

    def differs(self, name: str, tensor: Tensor) -> bool:
        """Whether it is frozen now and these are other bytes than its own."""
        watch = self.watches[name]
        return watch.open and difference(watch.known, watch.take(tensor, self.prints)) is not None

    def compare(self, tensors: Mapping[str, Tensor], step: int) -> list[Violation]:
        """What differs in these from what is known, also what is gone. Nothing is entered."""
        found = []
        for watch in self.watches.values():
            if not watch.open:
                continue
            tensor = tensors.get(watch.name)
            what = "gone" if tensor is None else difference(watch.known, watch.take(tensor, self.prints))
            if what is not None:
                found.append(Violation(watch.name, watch.last_good, step, None, what))
        return found

    def open(self, live: Mapping[str, Slot], step: int) -> None:
        """Begin the freezes that begin here."""
        for name, watch in self.watches.items():
            if not watch.begins(step) or name not in live:
                continue
            slot = live[name]
            assert slot.tensor is not None
            watch.known = watch.take(slot.tensor, self.prints)
            watch.localise(slot.tensor, self.prints)
            watch.last_good, watch.violated = step, False
            if self._guard is not None:
                self._guard.writes.pop(name, None)
            self._wires[name] = Wire.on(slot)
            if watch.decision.scheduled and name == watch.decision.name:
                stop = next(b for a, b in watch.decision.intervals if a <= step and (b is None or step < b))
                watch.intervals.append(Interval(step, stop, digest(slot.tensor), None))

    def turn(self, live: Mapping[str, Slot], step: int) -> None:
        """End the freezes that end here, begin those that begin."""
        if not self.turns_at(step):
            return
        for name, watch in self.watches.items():
            if watch.ends(step):
                self._close_interval(watch, live)
                watch.close()
                self._wires.pop(name, None)
        self.open(live, step)
        self.aim_guard(live)

    def close(self, live: Mapping[str, Slot]) -> None:
        """The run has ended within these freezes: what they hold now is what they end with."""
        for watch in self.watches.values():
            if watch.open:
                self._close_interval(watch, live)

    def look(self, names: Iterable[str], live: Mapping[str, Slot], step: int) -> list[Violation]:
        """Compare the bytes behind these names, once per tensor."""
        found = []
        for name in names:
            watch, slot = self.watches[name], live.get(name)
            if not watch.open or watch.violated:
                continue
            if slot is None or slot.tensor is None:
                found.append(self._violate(watch, "gone", step))
                continue
            if self._same_as_first(watch, live):
                self._rearm(name, slot)
                continue
            what = difference(watch.known, watch.take(slot.tensor, self.prints))
            if what is not None:
                found.append(self._violate(watch, what, step))
                continue
            watch.last_good = step
            watch.localise(slot.tensor, self.prints)
            self._rearm(name, slot)
        return found

    def written(self) -> bool:
        """Whether the guard has seen a write to a tensor under watch."""
        return self._guard is not None and any(name in self._wires for name in self._guard.writes)

    def aim_guard(self, live: Mapping[str, Slot]) -> None:
        """It watches what is frozen now, as it is bound now."""
        if self._guard is not None:
            watches = {n: w for n, w in self.watches.items() if w.open and not self._same_as_first(w, live)}
            found = {name: live[name].tensor for name in watches if name in live}
            self._guard.watch({name: tensor for name, tensor in found.items() if tensor is not None})

    def _close_interval(self, watch: Watch, live: Mapping[str, Slot]) -> None:
        tensor = live[watch.name].tensor if watch.name in live else None
        if watch.intervals and tensor is not None:
            watch.intervals[-1] = replace(watch.intervals[-1], after=digest(tensor))

    def _same_as_first(self, watch: Watch, live: Mapping[str, Slot]) -> bool:
        """A tie that is still one: looked at under its own name."""
        own, here = live.get(watch.decision.name), live.get(watch.name)
        return watch.name != watch.decision.name and own is not None and here is not None and own.tensor is here.tensor

    def _rearm(self, name: str, slot: Slot) -> None:
        old = self._wires.get(name)
        wire = self._wires[name] = Wire.on(slot)
        if old is not None:
            wire.false_alarms = old.false_alarms + old.tripped()

    def _violate(self, watch: Watch, what: str, step: int) -> Violation:
        watch.violated = True
        self._wires.pop(watch.name, None)
        write = self._guard.writes.get(watch.name) if self._guard is not None else None
        last_good = step - 1 if write else watch.last_good
        return Violation(watch.name, last_good, step, str(write) if write else None, what)
