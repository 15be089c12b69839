"""The witness beside the loop: its findings go to the reports, and end the run where the policy says so."""

from __future__ import annotations

from app.errors import PermafrostError
from app.freeze.plan import FreezePlan
from worker.trainer.protocol import Reporter
from worker.trainer.witness.report import Violation
from worker.trainer.witness.witness import Witness


class FrozenMoved(PermafrostError):
    """A frozen tensor is not what it was."""

    code = "frozen_tensor_changed"


class Watch:
    """`witness` is entered around the loop; an audit (`enforce` false) only takes note."""

    def __init__(self, witness: Witness, plan: FreezePlan, reporter: Reporter) -> None:
        self.witness = witness
        self._reporter = reporter
        self._abort = plan.policy.enforce and plan.policy.on_violation == "abort"

    def after_step(self) -> None:
        self._take(self.witness.step())

    def before_checkpoint(self) -> None:
        """Every frozen byte is looked at, so that a checkpoint holds none that moved unseen."""
        self._take(self.witness.check())

    def _take(self, found: list[Violation]) -> None:
        for violation in found:
            self._reporter.report("violation", **violation.to_json())
        if found and self._abort:
            raise FrozenMoved(f"frozen tensor {found[0]}; the policy's on_violation is 'abort'", param="freeze_policy")
