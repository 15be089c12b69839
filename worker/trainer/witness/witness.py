"""Audit of any training loop: did the frozen tensors stay the same, bit for bit, and if not, which moved, when and why.

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
from app.jsontypes import JsonDict
from worker.trainer.freeze.inventory import tensors as inventory
from worker.trainer.freeze.tensor_refs import TensorRef
from worker.trainer.witness.blame import ReplayFinding, explained, replay_under_guard
from worker.trainer.witness.budget import Budget, early_names
from worker.trainer.witness.fingerprint import XXH3, Fingerprints, sharded
from worker.trainer.witness.first_changes import FirstChanges
from worker.trainer.witness.guard import WriteGuard
from worker.trainer.witness.live_names import live_tensors, own_model
from worker.trainer.witness.report import Violation, WitnessReport
from worker.trainer.witness.watchlist import NoticedWrites, Watchlist


class Witness:
    """Watches a model's frozen tensors while any loop trains it. It freezes nothing and writes to no tensor.

    Enter it before training, call `step()` after each optimizer step, leave it after training, then read `report()`.

    Parameters
    - `model`: the model; wrappers of `torch.compile` and data parallelism are looked through.
    - `freeze`: which tensors must not change, one pattern or several, matched against full dotted names as in a freeze
      policy (`*` is one segment, `**` any number). Buffers of wholly frozen modules are included.
    - `plan`: a resolved freeze policy instead of `freeze`, with frozen rows and schedules.
    - `budget`: the share of training time that checks may take; 1.0 checks after every step.
    - `guard`: watch every operation, to name the one that wrote. Steps take 10 to 20 % longer.
    - `step`: how many updates the model has had already.
    - `secret`: the key of the fingerprints. Ranks that hold shards of one model need the same one, and must enter,
      check and leave together.

    Raises PolicyError for a pattern that matches no tensor, naming the nearest names; TypeError, on entering, for a
    tensor without readable bytes (on the meta device, for example); LookupError if `plan` was made for another model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        freeze: str | Iterable[str] | None = None,
        plan: FreezePlan | None = None,
        budget: float = 0.01,
        guard: bool = False,
        step: int = 0,
        secret: bytes | None = None,
    ) -> None:
        self.model = own_model(model)
        self.plan = _plan(self.model, freeze, plan)
        self.steps = self.first_step = self.last_step = step
        self.violations: list[Violation] = []
        self.checks = 0
        self._share = budget
        self._budget = Budget(budget)
        self._guard = WriteGuard({}, self.drifted) if guard else None
        prints = Fingerprints() if secret is None else Fingerprints(secret)
        self._frozen = Watchlist(self.plan, prints, self._guard, step=step)
        self._first = FirstChanges()
        self._early_checks = 0
        self._restored = False
        self._hooks: list[RemovableHandle] = []
        self._state = "not begun"  # then "running", then "ended" or a sentence on why the run stopped

    def __enter__(self) -> "Witness":
        if self._state != "running":
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("ended" if kind is None else f"the run ended in {kind.__name__} after step {self.steps}")

    def start(self) -> None:
        """Fingerprint the frozen tensors as they are now; after `load_state_dict`, compare them with the saved ones.

        Entering the with-block does this.
        """
        live = self._live()
        missing = next((name for name in self._frozen.watched if name not in live), None)
        if missing is not None:
            raise LookupError(f"the plan was made for another model: this one has no '{missing}'")

        self._state, self._budget = "running", Budget(self._share)
        began = time.perf_counter()
        if self._restored:
            self._first.resume(live, self._frozen.prints)
            self._check_frozen(live)
        else:
            self._first.begin(self.plan.decisions, live, self._frozen.prints)
            self._count_check()
        self._frozen.open_freezes(live, self.steps)
        self._budget.record(time.perf_counter() - began)

        if self._guard is not None:
            self._frozen.aim_guard(live)
            self._guard.begin()

    def step(self) -> list[Violation]:
        """Count one optimizer step and check what is due. Returns the violations that this found, usually none.

        RuntimeError outside of the with-block.
        """
        self._require_running()
        self.steps += 1
        if self._guard is not None:
            self._guard.next_step()
        boundary = self._frozen.boundary_after(self.steps)
        if not (self._frozen.armed or self._first.pending or boundary):
            return []  # nothing is frozen now, and every tensor that may move has moved

        began = time.perf_counter()
        if boundary or self._frozen.guard_saw_a_write() or self._budget.due():
            live = self._live()
            violations = self._check_frozen(live)
            if self._budget.early(self.steps) or not self._first.looked_at_all:
                self._first.check(live, self._frozen.prints, step=self.steps)
            self._frozen.follow_schedule(live, self.steps)
            self._budget.record(time.perf_counter() - began)
            return violations

        violations = self._check_some() if self._budget.early(self.steps) else self._check_hinted()
        self._budget.spent += time.perf_counter() - began
        return violations

    def check(self) -> list[Violation]:
        """Compare every frozen byte now, whatever the budget: before writing a checkpoint, for example.

        Returns the violations that this found.
        """
        self._require_running()
        return self._check_everything(self._live())

    def finish(self, how: str = "ended") -> None:
        """Make the last check. `how` is "ended", or a sentence on why the run stopped early, which the report repeats.

        Leaving the with-block does this.
        """
        if self._state != "running":
            return
        if self._guard is not None:
            self._guard.end()
        for hook in self._hooks:
            hook.remove()

        live = self._live()
        self._check_everything(live)
        # Whole shards are read by all ranks together, and a rank that leaves because of an error is alone.
        if how == "ended" or not any(sharded(slot.tensor) for slot in live.values() if slot.tensor is not None):
            self._frozen.end_intervals(live)
        self._state = how

    @property
    def seconds(self) -> float:
        """Time that the witness itself has taken so far."""
        return self._budget.spent

    def report(self) -> WitnessReport:
        """The verdict so far. Within the with-block every frozen byte is compared first."""
        if self._state == "running":
            self.check()
        incomplete = self._state not in {"running", "ended"}
        watched = self._frozen.watched
        schemes = {part.scheme for item in watched.values() for part in item.known}
        return WitnessReport(
            verdict="violated" if self.violations else "incomplete" if incomplete else "verified",
            violations=tuple(self.violations),
            steps=self.steps,
            checks=self.checks,
            first_step=self.first_step,
            last_step=self.last_step,
            watched=len({item.decision.name for item in watched.values()}),
            scheme=",".join(sorted(schemes)) or XXH3,
            seconds=self.seconds,
            reason=self._state if incomplete else None,
            first_changed=dict(self._first.found),
            intervals={name: tuple(item.intervals) for name, item in watched.items() if item.intervals},
            followed=self._followed(),
        )

    def follow(self, optimizer: Optimizer | None = None) -> "Witness":
        """Count the steps of this optimizer, or of any that holds a parameter, without calls of `step()`."""
        if optimizer is not None:
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: self._stepped()))
        else:
            self._hooks.append(
                register_optimizer_step_post_hook(lambda other, *_: self._stepped() if self._owns(other) else None)
            )
        return self

    def listen(self, writes: NoticedWrites) -> None:
        """Have what notices writes as they are made say so: a tensor that it names is compared after the same step."""
        self._frozen.writes = writes

    def compare(self, tensors: Mapping[str, Tensor]) -> list[Violation]:
        """How a state dict (a checkpoint read back, an averaged copy) differs from the frozen bytes; records nothing.

        `tensors` are by live name. A frozen name that is missing there is a violation whose `what` is "gone".
        """
        return self._frozen.compare(tensors, self.steps)

    def blame(self, replay: Callable[[], Any], *, start: int | None = None) -> list[ReplayFinding]:
        """Replay from a good state under a write-guard, to name the operation that moved each violated tensor.

        `replay` must restore the state after step `start` (by default the last good step) and train on past the first
        bad step. The findings are also added to `violations`.
        """
        if not self.violations:
            return []
        findings = replay_under_guard(
            replay,
            names=[violation.name for violation in self.violations],
            tensor=self.tensor,
            drifted=self.drifted,
            start=min(violation.last_good_step for violation in self.violations) if start is None else start,
        )
        self.explain(findings)
        return findings

    def explain(self, findings: Iterable[ReplayFinding]) -> None:
        """Add the findings of a replay to the violations of the same names."""
        by_name = {finding.name: finding for finding in findings}
        self.violations = [
            explained(violation, by_name[violation.name]) if violation.name in by_name else violation
            for violation in self.violations
        ]

    def tensor(self, name: str) -> Tensor | None:
        """The live tensor of this name, or None."""
        slot = self._live().get(name)
        return slot.tensor if slot else None

    def drifted(self, name: str) -> bool:
        """Whether a frozen tensor has other bytes now than it should."""
        tensor = self.tensor(name)
        return tensor is not None and self._frozen.differs(name, tensor)

    def state_dict(self) -> JsonDict:
        """For a checkpoint: the fingerprints of the frozen bytes as they were at the very start, with their secret.

        Plain JSON. Keep it private: with the secret, a change could be made that the fingerprint does not see.
        """
        return {
            "secret": self._frozen.prints.secret.hex(),
            "first_step": self.first_step,
            "steps": self.steps,
            "checks": self.checks,
            "violations": [asdict(violation) for violation in self.violations],
            **self._first.state_dict(),
            "watches": {name: item.state_dict() for name, item in self._frozen.watched.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an earlier session: call before entering, on a model restored to the same step."""
        self._restored = True
        self._frozen.prints = Fingerprints(bytes.fromhex(state["secret"]))
        self.first_step, self.checks = state["first_step"], state["checks"]
        self.steps = self.last_step = state["steps"]
        self.violations = [Violation(**violation) for violation in state["violations"]]
        self._first.load_state_dict(state)
        for name, saved in state["watches"].items():
            self._frozen.watched[name].load_state_dict(saved)

    def _require_running(self) -> None:
        if self._state != "running":
            raise RuntimeError(f"the witness is not watching: {self._state}")

    def _stepped(self) -> None:
        if self._state == "running":
            self.step()

    def _owns(self, optimizer: Optimizer) -> bool:
        ours = set(map(id, self.model.parameters()))
        return any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"])

    def _live(self) -> dict[str, TensorRef]:
        return live_tensors(self.model)

    def _followed(self) -> dict[str, str]:
        live = self._live()
        return {name: live[name].name for name in self._frozen.watched if name in live and live[name].name != name}

    def _check_everything(self, live: Mapping[str, TensorRef]) -> list[Violation]:
        began = time.perf_counter()
        violations = self._check_frozen(live)
        self._first.check(live, self._frozen.prints, step=self.steps)
        self._budget.record(time.perf_counter() - began)
        return violations

    def _check_frozen(self, live: Mapping[str, TensorRef]) -> list[Violation]:
        violations = self._compare(self._frozen.watched, live)
        self._count_check()
        return violations

    def _count_check(self) -> None:
        self.checks += 1
        self.last_step = self.steps

    def _check_some(self) -> list[Violation]:
        """An early check of some tensors; of all frozen ones, if one of them has moved."""
        live, turn = self._live(), self._early_checks
        self._early_checks += 1

        sizes = self._frozen.sizes(live)
        chosen = early_names(sizes, turn) if sizes else []
        violations = self._compare(chosen, live)
        if violations or len(chosen) == len(sizes):
            violations += self._compare(self._frozen.watched.keys() - set(chosen), live)
            self._count_check()

        if moving := self._first.sizes(live):
            self._first.check(live, self._frozen.prints, step=self.steps, names=early_names(moving, turn))
        return violations + self._check_hinted()

    def _check_hinted(self) -> list[Violation]:
        """A check of the tensors whose tripwires hint at a write."""
        hinted = self._frozen.tripped()
        if not hinted:
            return []
        live = self._live()
        violations = self._compare(hinted, live)
        self._frozen.aim_guard(live)
        return violations

    def _compare(self, names: Iterable[str], live: Mapping[str, TensorRef]) -> list[Violation]:
        violations = self._frozen.check(names, live, self.steps)
        self.violations += violations
        return violations


def _plan(model: nn.Module, freeze: str | Iterable[str] | None, plan: FreezePlan | None) -> FreezePlan:
    if (freeze is None) == (plan is None):
        raise TypeError("give either freeze=, a pattern or a list of them, or plan=")
    if plan is not None:
        return plan
    patterns = [freeze] if isinstance(freeze, str) else list(freeze or ())
    return resolve(Policy.from_json({"freeze": patterns, "enforce": False}), inventory(model))
