"""Median stopping: ends a job of a sweep that is worse than the median of the others at the same step.

The rule of Google Vizier (Golovin et al., KDD 2017) as Optuna's MedianPruner has it: the best value that the job has
had so far is compared with the median of the others' values at this step.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs.queue.tables import Job, Metric
from app.jsontypes import JsonDict


@dataclass(frozen=True, slots=True)
class MedianRule:
    """`min_jobs` others must have reached the step, which must be `min_step` at least."""

    metric: str
    goal: Literal["minimize", "maximize"]
    min_jobs: int
    min_step: int

    def to_json(self) -> JsonDict:
        return {"type": "median", **asdict(self)}

    @classmethod
    def from_json(cls, content: JsonDict) -> Self:
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class StoppedEarly:
    """Why a job was stopped: the numbers that were compared, and the sentence for its events."""

    step: int
    metric: str
    best: float | None  # None: the job has had no number so far, as after a loss that is not finite
    median: float
    jobs: int

    @property
    def reason(self) -> str:
        value = "is no number" if self.best is None else f"of {self.best:.6g} at best"
        return (
            f"stopped early by its sweep at step {self.step}: validation {self.metric} {value}, "
            f"worse than the median {self.median:.6g} of {self.jobs} others at this step"
        )

    def to_json(self) -> JsonDict:
        return {"stopped": {**asdict(self), "reason": self.reason}}


def find_worse(session: Session, job: Job) -> StoppedEarly | None:
    """Why a job of a sweep is to be stopped at the step of its last evaluation; None while it may go on.

    A job that has taken its last step goes on: its result costs nothing more.
    """
    progress = job.progress or {}
    if not job.early_stopping or progress.get("step") == progress.get("total_steps"):
        return None

    rule = MedianRule.from_json(job.early_stopping)
    valid = select(Metric.step, Metric.values).where(Metric.split == "valid")
    own = session.execute(valid.where(Metric.job_id == job.id).order_by(Metric.step)).all()
    if not own or own[-1].step < rule.min_step:
        return None

    step = own[-1].step
    siblings = valid.join(Job, Job.id == Metric.job_id).where(Job.sweep_id == job.sweep_id, Job.id != job.id)
    others = session.execute(siblings.where(Metric.step == step)).all()
    values = [[row.values.get(rule.metric) for row in rows] for rows in (own, others)]
    return judge(rule, step, own=values[0], others=values[1])


def judge(rule: MedianRule, step: int, *, own: Sequence[Any], others: Sequence[Any]) -> StoppedEarly | None:
    """`own` are the job's values up to this step, `others` those of its siblings at this step; None is no number."""
    compared = [value for value in others if _is_number(value)]
    if len(compared) < rule.min_jobs:
        return None

    median = statistics.median(compared)
    numbers = [value for value in own if _is_number(value)]
    if not numbers:
        return StoppedEarly(step, rule.metric, None, median, len(compared))

    best = min(numbers) if rule.goal == "minimize" else max(numbers)
    worse = best > median if rule.goal == "minimize" else best < median
    return StoppedEarly(step, rule.metric, best, median, len(compared)) if worse else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
