"""The witness beside the loop: its findings go to the reports, and end the run where the policy says so.

Of several ranks each watches what it holds. What one finds, all hear of, so that they end at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from app.errors import PermafrostError
from app.freeze.plan import FreezePlan
from worker.protocol import Reporter
from worker.trainer.ranks.group import Group
from worker.trainer.witness.blame import Finding
from worker.trainer.witness.report import Report, Violation, combined
from worker.trainer.witness.witness import Witness

Explain = Callable[[Sequence[Violation]], list[Finding]]


UNSHOWN = "what wrote it was not looked for: the replay that shows it needs the job to run on one device"


class FrozenMoved(PermafrostError):
    """A frozen tensor is not what it was."""

    code = "frozen_tensor_changed"


class Watch:
    """`witness` is entered around the loop; an audit (`enforce` false) only takes note, unless told to abort. `explain`
    finds the cause."""

    def __init__(self, witness: Witness, plan: FreezePlan, reporter: Reporter, group: Group) -> None:
        self.witness = witness
        self.group = group
        self.explain: Explain | None = None
        self._reporter = reporter
        self._abort = plan.policy.on_violation == "abort"

    def after_step(self) -> None:
        self._take(self.witness.step())

    def before_checkpoint(self) -> None:
        """Every frozen byte is looked at, so that a checkpoint holds none that moved unseen."""
        self._take(self.witness.check())

    def at_end(self) -> None:
        """The last look, after the last evaluation: what it finds is told, and counts, like all before it."""
        self._take(self.witness.check())

    def report(self) -> Report:
        """What all ranks have seen."""
        reports = self.group.gather(asdict(self.witness.report()))
        return combined([Report.from_json(each) for each in reports])

    def _take(self, found: list[Violation]) -> None:
        if not self.group.any(bool(found)):
            return
        found = self._heard(found)
        for violation in found:  # before the replay, which may take a while
            self._reporter.report("violation", **violation.to_json())
        if self.explain is not None:
            found = self._blame(found, self.explain)
        if self._abort:
            raise FrozenMoved(f"frozen tensor {found[0]}; the policy's on_violation is 'abort'", param="freeze_policy")

    def _heard(self, found: list[Violation]) -> list[Violation]:
        """Every rank's, and whose they are; alone, simply what was found."""
        if self.group.size == 1:
            return found
        told = self.group.gather([asdict(each) for each in found])
        said = {"explanation": UNSHOWN}
        return [Violation(**each | said | {"rank": rank}) for rank, mine in enumerate(told) for each in mine]

    def _blame(self, found: list[Violation], explain: Explain) -> list[Violation]:
        """The same violations with what the replay knows of them, told again."""
        self.witness.explain(explain(found))
        names = {violation.name for violation in found}
        explained = [violation for violation in self.witness.violations if violation.name in names]
        for violation in explained:
            self._reporter.report("violation", **violation.to_json())
        return explained
