"""Watches the frozen tensors of any training loop, and says of each whether, when and by what it was moved.

with Witness(model, freeze=["encoder.**"]) as w:
    ...; optimizer.step(); w.step()
print(w.report())
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
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
from worker.trainer.witness.report import Report, Violation
from worker.trainer.witness.watchlist import Watchlist


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
        self._guard: WriteGuard | None = WriteGuard({}, self.drifted) if guard else None
        prints = Fingerprints() if secret is None else Fingerprints(secret)
        self._frozen = Watchlist(self.plan, prints, self._guard, step=step)
        self._first = FirstChanges()
        self._early = 0  # looks at some tensors
        self._restored = False
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
        missing = next((name for name in self._frozen.watches if name not in live), None)
        if missing is not None:
            raise LookupError(f"the plan was made for another model: this one has no '{missing}'")
        self._state, self._budget = "running", Budget(self._share)
        began = time.perf_counter()
        if self._restored:
            self._first.take_up(live, self._frozen.prints)
            self._check(live)
        else:
            self._first.begin(self.plan.decisions, live, self._frozen.prints)
            self._count()
        self._frozen.open(live, self.steps)
        self._budget.record(time.perf_counter() - began)
        if self._guard is not None:
            self._frozen.aim_guard(live)
            self._guard.begin()

    def step(self) -> list[Violation]:
        """An update was made. Returns the tensors found to have moved: as a rule none."""
        self._require_running()
        self.steps += 1
        if self._guard is not None:
            self._guard.next_step()
        if not (self._frozen.armed or self._first.waits or self._frozen.turns_at(self.steps)):
            return []  # nothing is frozen now, and all that may move has moved
        began = time.perf_counter()
        if self._frozen.turns_at(self.steps) or self._frozen.written() or self._budget.due():
            live = self._live()
            found = self._check(live, moving=self._budget.early(self.steps) or not self._first.looked)
            self._frozen.turn(live, self.steps)
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
            self._frozen.close(live)
        self._budget.record(time.perf_counter() - began)
        self._state = how

    def report(self) -> Report:
        """The verdict so far; within the with-block every frozen byte is looked at first."""
        if self._state == "running":
            self.check()
        incomplete = self._state not in {"running", "ended"}
        watches = self._frozen.watches
        schemes = {part.scheme for watch in watches.values() for part in watch.known}
        return Report(
            verdict="violated" if self.violations else "incomplete" if incomplete else "verified",
            violations=tuple(self.violations),
            steps=self.steps,
            checks=self.checks,
            first_step=self.first_step,
            last_step=self.last_step,
            watched=len({watch.decision.name for watch in watches.values()}),
            scheme=",".join(sorted(schemes)) or XXH3,
            seconds=self._budget.spent,
            reason=self._state if incomplete else None,
            first_changed=dict(self._first.found),
            intervals={name: tuple(watch.intervals) for name, watch in watches.items() if watch.intervals},
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
        return self._frozen.compare(tensors, self.steps)

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
        tensor = self.tensor(name)
        return tensor is not None and self._frozen.differs(name, tensor)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what the frozen bytes were at the very start, under this session's secret."""
        return {
            "secret": self._frozen.prints.secret.hex(),
            "first_step": self.first_step,
            "steps": self.steps,
            "checks": self.checks,
            "violations": [asdict(violation) for violation in self.violations],
            **self._first.state_dict(),
            "watches": {name: watch.state_dict() for name, watch in self._frozen.watches.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another session's witness stood: call before entering, on a model restored to the same step."""
        self._restored = True
        self._frozen.prints = Fingerprints(bytes.fromhex(state["secret"]))
        self.first_step, self.checks = state["first_step"], state["checks"]
        self.steps = self.last_step = state["steps"]
        self.violations = [Violation(**violation) for violation in state["violations"]]
        self._first.load_state_dict(state)
        for name, kept in state["watches"].items():
            self._frozen.watches[name].load_state_dict(kept)

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

    def _check(self, live: Mapping[str, Slot], *, moving: bool = False) -> list[Violation]:
        found = self._look(self._frozen.watches, live)
        if moving:
            self._first.look(live, self._frozen.prints, step=self.steps)
        self._count()
        return found

    def _count(self) -> None:
        self.checks += 1
        self.last_step = self.steps

    def _look_early(self) -> list[Violation]:
        """At some of the tensors, and where one of them has moved at all of them."""
        live, turn = self._live(), self._early
        self._early += 1
        sizes = self._frozen.sizes(live)
        chosen, moving = some(sizes, turn) if sizes else [], self._first.sizes(live)
        found = self._look(chosen, live)
        if found or len(chosen) == len(sizes):
            found += self._look(self._frozen.watches.keys() - set(chosen), live)
            self._count()
        if moving:
            self._first.look(live, self._frozen.prints, step=self.steps, names=some(moving, turn))
        return found + self._follow_hints()

    def _follow_hints(self) -> list[Violation]:
        hinted = self._frozen.tripped()
        if not hinted:
            return []
        live = self._live()
        found = self._look(hinted, live)
        self._frozen.aim_guard(live)
        return found

    def _look(self, names: Iterable[str], live: Mapping[str, Slot]) -> list[Violation]:
        found = self._frozen.look(names, live, self.steps)
        self.violations += found
        return found


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
