"""Watches the frozen tensors of any training loop, and says of each whether, when and by what it was moved.

with Witness(model, freeze=["encoder.**"]) as w:
    ...; optimizer.step(); w.step()
print(w.report())
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors as inventory
from worker.trainer.freeze.slots import Slot, slots
from worker.trainer.witness.blame import Finding, explained, replay_under_guard
from worker.trainer.witness.budget import Budget, some
from worker.trainer.witness.fingerprint import XXH3, Fingerprints, sharded
from worker.trainer.witness.first_changes import FirstChanges
from worker.trainer.witness.guard import WriteGuard
from worker.trainer.witness.observe import digest
from worker.trainer.witness.report import Interval, Report, Violation
from worker.trainer.witness.tripwires import Wire
from worker.trainer.witness.watch import Watch, difference


class Witness:
    """Enter before training, leave after it, `step()` after each update. Nothing is enforced, no tensor is written.

    `freeze` is a list of names as in a freeze policy (`*` one segment, `**` any), or give a resolved `plan`.
    `budget` is the share of training time that checks may take (1.0: look after every step). `guard` watches every
    operation (some 15% slower) and names the one that wrote. `step` is the number of updates already made.
    Ranks that hold shards of one model enter, leave and check together, with one `secret`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        freeze: Iterable[str] | None = None,
        plan: FreezePlan | None = None,
        budget: float = 0.01,
        guard: bool = False,
        step: int = 0,
        secret: bytes | None = None,
    ) -> None:
        self.model = _unwrapped(model)
        self.plan = _plan(self.model, freeze, plan)
        self.steps = self.first_step = self.last_step = step
        self.violations: list[Violation] = []
        self.checks = 0
        self._share = budget
        self._budget = Budget(budget)
        self._prints = Fingerprints() if secret is None else Fingerprints(secret)
        self._watches = {
            name: Watch(name, decision, last_good=step)
            for decision in self.plan.decisions
            if decision.intervals
            for name in (decision.name, *decision.aliases)
        }
        self._boundaries = {step for d in self.plan.scheduled for bounds in d.intervals for step in bounds}
        self._wires: dict[str, Wire] = {}
        self._first = FirstChanges()
        self._early = 0  # looks at some tensors
        self._restored = False
        self._guard: WriteGuard | None = WriteGuard({}, self.drifted) if guard else None
        self._hooks: list[RemovableHandle] = []
        self._state = "not begun"  # then "running", then "ended" or why it did not end well

    def __enter__(self) -> "Witness":
        if self._state != "running":
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("ended" if kind is None else f"the run ended in {kind.__name__} after step {self.steps}")

    def start(self) -> None:
        """Take the frozen bytes as they are now for what they must stay; after a restore, compare them instead."""
        live = self._live()
        missing = next((name for name in self._watches if name not in live), None)
        if missing is not None:
            raise LookupError(f"the plan was made for another model: this one has no '{missing}'")
        self._state, self._budget = "running", Budget(self._share)
        began = time.perf_counter()
        if self._restored:
            self._first.take_up(live, self._prints)
            self._check(live)
        else:
            self._first.begin(self.plan.decisions, live, self._prints)
            self._count()
        self._open(live)
        self._budget.record(time.perf_counter() - began)
        if self._guard is not None:
            self._aim_guard(live)
            self._guard.begin()

    def step(self) -> list[Violation]:
        """An update was made. Returns the tensors found to have moved: as a rule none."""
        self._require_running()
        self.steps += 1
        if self._guard is not None:
            self._guard.next_step()
        if not (self._wires or self._first.waits or self.steps in self._boundaries):
            return []  # nothing is frozen now, and all that may move has moved
        began = time.perf_counter()
        if self.steps in self._boundaries or self._written() or self._budget.due():
            live = self._live()
            found = self._check(live, moving=self._budget.early(self.steps) or not self._first.looked)
            self._turn(live)
            self._budget.record(time.perf_counter() - began)
            return found
        found = self._look_early() if self._budget.early(self.steps) else self._follow_hints()
        self._budget.spent += time.perf_counter() - began
        return found

    def check(self) -> list[Violation]:
        """Look at every frozen byte now (at a checkpoint, say), whatever the budget."""
        self._require_running()
        began = time.perf_counter()
        found = self._check(self._live(), moving=True)
        self._budget.record(time.perf_counter() - began)
        return found

    def finish(self, how: str = "ended") -> None:
        """The last look. `how` is "ended", or in words why the run did not get to its end."""
        if self._state != "running":
            return
        if self._guard is not None:
            self._guard.end()
        for hook in self._hooks:
            hook.remove()
        began, live = time.perf_counter(), self._live()
        self._check(live, moving=True)
        # What is read of whole shards is read by all ranks together, and one that leaves in an error leaves alone.
        if how == "ended" or not any(sharded(slot.tensor) for slot in live.values() if slot.tensor is not None):
            self._close(live)
        self._budget.record(time.perf_counter() - began)
        self._state = how

    def report(self) -> Report:
        """The verdict so far; within the with-block every frozen byte is looked at first."""
        if self._state == "running":
            self.check()
        incomplete = self._state not in {"running", "ended"}
        schemes = {part.scheme for watch in self._watches.values() for part in watch.known}
        return Report(
            verdict="violated" if self.violations else "incomplete" if incomplete else "verified",
            violations=tuple(self.violations),
            steps=self.steps,
            checks=self.checks,
            first_step=self.first_step,
            last_step=self.last_step,
            watched=len({watch.decision.name for watch in self._watches.values()}),
            scheme=",".join(sorted(schemes)) or XXH3,
            seconds=self._budget.spent,
            reason=self._state if incomplete else None,
            first_changed=dict(self._first.found),
            intervals={n: tuple(w.intervals) for n, w in self._watches.items() if w.intervals},
        )

    def follow(self, optimizer: Optimizer | None = None) -> "Witness":
        """Count the steps by itself: those of this optimizer, or of any that holds a parameter of the model."""
        if optimizer is not None:
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: self._stepped()))
        else:
            self._hooks.append(
                register_optimizer_step_post_hook(lambda o, *_: self._stepped() if self._owns(o) else None)
            )
        return self

    def compare(self, tensors: Mapping[str, Tensor]) -> list[Violation]:
        """What differs in a checkpoint, a file read back, an averaged copy: by live name, also what is gone."""
        found = []
        for watch in self._watches.values():
            if not watch.open:
                continue
            tensor = tensors.get(watch.name)
            what = "gone" if tensor is None else difference(watch.known, watch.take(tensor, self._prints))
            if what is not None:
                found.append(Violation(watch.name, watch.last_good, self.steps, None, what))
        return found

    def blame(self, replay: Callable[[], Any], *, start: int | None = None) -> list[Finding]:
        """Replay from a good state under a write-guard and name what moved each violated tensor.

        `replay` restores the state after step `start` (by default the last good step) and trains on past the first bad
        one. What it shows is entered into the violations.
        """
        if not self.violations:
            return []
        begin = min(v.last_good_step for v in self.violations) if start is None else start
        found = replay_under_guard(
            replay,
            names=[violation.name for violation in self.violations],
            tensor=self.tensor,
            drifted=self.drifted,
            start=begin,
        )
        self.explain(found)
        return found

    def explain(self, findings: Iterable[Finding]) -> None:
        """Enter what a replay has found into the violations; one that it dates within the known bounds is dated so."""
        known = {finding.name: finding for finding in findings}
        self.violations = [explained(v, known[v.name]) if v.name in known else v for v in self.violations]

    def tensor(self, name: str) -> Tensor | None:
        """The live tensor of this name, None when the model has none."""
        slot = self._live().get(name)
        return slot.tensor if slot else None

    def drifted(self, name: str) -> bool:
        """Whether a tensor's bytes are now other than they should be."""
        watch, tensor = self._watches[name], self.tensor(name)
        if not watch.open or tensor is None:
            return False
        return difference(watch.known, watch.take(tensor, self._prints)) is not None

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what the frozen bytes were at the very start, under this session's secret."""
        return {
            "secret": self._prints.secret.hex(),
            "first_step": self.first_step,
            "steps": self.steps,
            "checks": self.checks,
            "violations": [asdict(violation) for violation in self.violations],
            **self._first.state_dict(),
            "watches": {name: watch.state_dict() for name, watch in self._watches.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another session's witness stood: call before entering, on a model restored to the same step."""
        self._restored = True
        self._prints = Fingerprints(bytes.fromhex(state["secret"]))
        self.first_step, self.checks = state["first_step"], state["checks"]
        self.steps = self.last_step = state["steps"]
        self.violations = [Violation(**violation) for violation in state["violations"]]
        self._first.load_state_dict(state)
        for name, kept in state["watches"].items():
            self._watches[name].load_state_dict(kept)

    def _require_running(self) -> None:
        if self._state != "running":
            raise RuntimeError(f"the witness is not watching: {self._state}")

    def _stepped(self) -> None:
        if self._state == "running":
            self.step()

    def _owns(self, optimizer: Optimizer) -> bool:
        ours = set(map(id, self.model.parameters()))
        return any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"])

    def _live(self) -> dict[str, Slot]:
        return {slot.name: slot for slot in slots(self.model)}

    def _open(self, live: Mapping[str, Slot]) -> None:
        """Begin the freezes that begin here."""
        for name, watch in self._watches.items():
            if not watch.begins(self.steps) or name not in live:
                continue
            slot = live[name]
            assert slot.tensor is not None
            watch.known = watch.take(slot.tensor, self._prints)
            watch.localise(slot.tensor, self._prints)
            watch.last_good, watch.violated = self.steps, False
            if self._guard is not None:
                self._guard.writes.pop(name, None)
            self._wires[name] = Wire.on(slot)
            if watch.decision.scheduled and name == watch.decision.name:
                stop = next(b for a, b in watch.decision.intervals if a <= self.steps and (b is None or self.steps < b))
                watch.intervals.append(Interval(self.steps, stop, digest(slot.tensor), None))

    def _turn(self, live: Mapping[str, Slot]) -> None:
        """End the freezes that end here, begin those that begin."""
        if self.steps not in self._boundaries:
            return
        for name, watch in self._watches.items():
            if watch.ends(self.steps):
                self._close_interval(watch, live)
                watch.close()
                self._wires.pop(name, None)
        self._open(live)
        self._aim_guard(live)

    def _close(self, live: Mapping[str, Slot]) -> None:
        """The run has ended within these freezes: what they hold now is what they end with."""
        for watch in self._watches.values():
            if watch.open:
                self._close_interval(watch, live)

    def _close_interval(self, watch: Watch, live: Mapping[str, Slot]) -> None:
        tensor = live[watch.name].tensor if watch.name in live else None
        if watch.intervals and tensor is not None:
            watch.intervals[-1] = replace(watch.intervals[-1], after=digest(tensor))

    def _check(self, live: Mapping[str, Slot], *, moving: bool = False) -> list[Violation]:
        found = self._look(self._watches, live)
        if moving:
            self._first.look(live, self._prints, step=self.steps)
        self._count()
        return found

    def _count(self) -> None:
        self.checks += 1
        self.last_step = self.steps

    def _look_early(self) -> list[Violation]:
        """At some of the tensors, and where one of them has moved at all of them."""
        live, turn = self._live(), self._early
        self._early += 1
        frozen = {name: live[name].tensor for name, watch in self._watches.items() if watch.open and name in live}
        sizes = {name: tensor.nbytes for name, tensor in frozen.items() if tensor is not None}
        chosen, moving = some(sizes, turn) if sizes else [], self._first.sizes(live)
        found = self._look(chosen, live)
        if found or len(chosen) == len(sizes):
            found += self._look(self._watches.keys() - set(chosen), live)
            self._count()
        if moving:
            self._first.look(live, self._prints, step=self.steps, names=some(moving, turn))
        return found + self._follow_hints()

    def _follow_hints(self) -> list[Violation]:
        hinted = [name for name, wire in self._wires.items() if wire.tripped()]
        if not hinted:
            return []
        live = self._live()
        found = self._look(hinted, live)
        self._aim_guard(live)
        return found

    def _look(self, names: Iterable[str], live: Mapping[str, Slot]) -> list[Violation]:
        """Compare the bytes behind these names, once per tensor."""
        found = []
        for name in names:
            watch, slot = self._watches[name], live.get(name)
            if not watch.open or watch.violated:
                continue
            if slot is None or slot.tensor is None:
                found.append(self._violate(watch, "gone"))
                continue
            if self._same_as_first(watch, live):
                self._rearm(name, slot)
                continue
            what = difference(watch.known, watch.take(slot.tensor, self._prints))
            if what is not None:
                found.append(self._violate(watch, what))
                continue
            watch.last_good = self.steps
            watch.localise(slot.tensor, self._prints)
            self._rearm(name, slot)
        return found

    def _same_as_first(self, watch: Watch, live: Mapping[str, Slot]) -> bool:
        """A tie that is still one: looked at under its own name."""
        own, here = live.get(watch.decision.name), live.get(watch.name)
        return watch.name != watch.decision.name and own is not None and here is not None and own.tensor is here.tensor

    def _rearm(self, name: str, slot: Slot) -> None:
        old = self._wires.get(name)
        wire = self._wires[name] = Wire.on(slot)
        if old is not None:
            wire.false_alarms = old.false_alarms + old.tripped()

    def _violate(self, watch: Watch, what: str) -> Violation:
        watch.violated = True
        self._wires.pop(watch.name, None)
        write = self._guard.writes.get(watch.name) if self._guard is not None else None
        last_good = self.steps - 1 if write else watch.last_good
        violation = Violation(watch.name, last_good, self.steps, str(write) if write else None, what)
        self.violations.append(violation)
        return violation

    def _written(self) -> bool:
        return self._guard is not None and any(name in self._wires for name in self._guard.writes)

    def _aim_guard(self, live: Mapping[str, Slot]) -> None:
        if self._guard is not None:
            watches = {n: w for n, w in self._watches.items() if w.open and not self._same_as_first(w, live)}
            found = {name: live[name].tensor for name in watches if name in live}
            self._guard.watch({name: tensor for name, tensor in found.items() if tensor is not None})


def _plan(model: nn.Module, freeze: Iterable[str] | None, plan: FreezePlan | None) -> FreezePlan:
    if (freeze is None) == (plan is None):
        raise TypeError("give either freeze=[names] or plan=")
    if plan is not None:
        return plan
    return resolve(Policy.from_json({"freeze": list(freeze or ()), "enforce": False}), inventory(model))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile's and the data-parallel wrappers: names are those of its own."""
    wrappers = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}
    while (inside := wrappers.get(type(model).__name__)) is not None:
        model = getattr(model, inside)
    return model
