"""A job's witness: reports violations, has a replay explain them, and ends the run if the policy says so.

Each of several ranks watches its own tensors. All are given what one of them finds, so that all end at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from app.errors import PermafrostError
from app.freeze.plan import FreezePlan
from worker.protocol import Reporter
from worker.trainer.ranks.group import Group
from worker.trainer.witness.blame import ReplayFinding
from worker.trainer.witness.report import Violation, WitnessReport, combine_reports
from worker.trainer.witness.witness import Witness

Explain = Callable[[Sequence[Violation]], list[ReplayFinding]]

NO_REPLAY = "what wrote it is not known: the replay that shows this needs a job on one device"


class FrozenTensorChanged(PermafrostError):
    """A frozen tensor has other bytes than before training."""

    code = "frozen_tensor_changed"


class JobWitness:
    """`witness` is entered around the training loop. `explain` replays violations, where that is possible.

    An audit (`enforce: false`) only records violations, unless its policy's `on_violation` is "abort".
    """

    def __init__(self, witness: Witness, plan: FreezePlan, reporter: Reporter, group: Group) -> None:
        self.witness = witness
        self.group = group
        self.explain: Explain | None = None
        self._reporter = reporter
        self._abort = plan.policy.on_violation == "abort"

    def after_step(self) -> None:
        """FrozenTensorChanged if a check finds a violation and the policy says abort; so do the two methods below."""
        self._handle(self.witness.step())

    def before_checkpoint(self) -> None:
        """Compare every frozen byte, so that no checkpoint holds a tensor that has moved."""
        self._handle(self.witness.check())

    def at_end(self) -> None:
        """The last check, after the last evaluation."""
        self._handle(self.witness.check())

    def report_unchanged(self, report: WitnessReport) -> None:
        """An event that names the trained parameters which hold the same bytes as before training."""
        names = [
            decision.name
            for decision in self.witness.plan.decisions
            if decision.kind == "parameter" and decision.action in ("train", "split") and decision.elements
        ]
        unchanged = [name for name in names if name not in report.first_changed]
        if unchanged:
            shown = ", ".join(f"'{name}'" for name in unchanged[:5]) + (", ..." if len(unchanged) > 5 else "")
            message = (
                f"{len(unchanged)} of {len(names)} trained tensors are unchanged: {shown}; no gradient reached them, "
                "or every update was too small for their dtype"
            )
            self._reporter.event(message, level="warn", tensors=unchanged[:100])

    def report(self) -> WitnessReport:
        """Of all ranks together."""
        reports = self.group.gather(asdict(self.witness.report()))
        return combine_reports([WitnessReport.from_json(report) for report in reports])

    def _handle(self, violations: list[Violation]) -> None:
        if not self.group.any(bool(violations)):
            return

        violations = self._of_all_ranks(violations)
        for violation in violations:  # before the replay, which may take a while
            self._reporter.report("violation", **violation.to_json())
        if self.explain is not None and any(violation.operation is None for violation in violations):
            violations = self._explained(violations, self.explain)
        if self._abort:
            message = f"frozen tensor {violations[0]}; the policy's on_violation is 'abort'"
            raise FrozenTensorChanged(message, param="freeze_policy")

    def _of_all_ranks(self, violations: list[Violation]) -> list[Violation]:
        if self.group.size == 1:
            return violations
        by_rank = self.group.gather([asdict(violation) for violation in violations])
        return [
            Violation(**{**fields, "explanation": None if fields["operation"] else NO_REPLAY, "rank": rank})
            for rank, rows in enumerate(by_rank)
            for fields in rows
        ]

    def _explained(self, violations: list[Violation], explain: Explain) -> list[Violation]:
        """The same violations, those without an operation with what the replay found, which are reported once more."""
        unexplained = [violation for violation in violations if violation.operation is None]
        self.witness.explain(explain(unexplained))
        names, without = ({each.name for each in part} for part in (violations, unexplained))
        found = [violation for violation in self.witness.violations if violation.name in names]
        for violation in found:
            if violation.name in without:
                self._reporter.report("violation", **violation.to_json())
        return found
