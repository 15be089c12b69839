"""Refuses schedules that a run would not carry out, each rule once: for the API, and for the trainer."""

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import FreezePlan


def refuse_unreached(plan: FreezePlan, steps: int) -> None:
    """PolicyError for a freeze that would begin after the last of `steps` updates: the run would end without it."""
    for decision in plan.scheduled if plan.policy.enforce else ():
        for start, _ in decision.intervals:
            if start >= steps:
                raise PolicyError(
                    f"rule '{decision.rule}' freezes '{decision.name}' from step {start}, and the run has"
                    f" {steps} steps; leave this interval out, or train for longer",
                    param="freeze_policy",
                )


def refuse_stopping_early(plan: FreezePlan, patience: int | None) -> None:
    """InvalidRequest for early stopping in a run with a schedule: it goes back to an earlier state."""
    if patience is not None and plan.scheduled:
        message = (
            "early stopping may end in a state from before a scheduled freeze began; leave it out, or freeze "
            f"'{plan.scheduled[0].name}' for the whole run"
        )
        raise InvalidRequest(message, param="hyperparameters.early_stopping_patience")
