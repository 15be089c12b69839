"""Median stopping: ends a job of a sweep that is worse than the median of the others at the same step.

The rule of Google Vizier (Golovin et al., KDD 2017) as Optuna's MedianPruner has it: the best value that the job has
had so far is compared with the median of the others' values at the last step that enough of them have reached.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from sqlalchemy import Select, func, select
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
    """Why a job of a sweep is to be stopped, as of the last step that enough others have reached; None: it may go on.

    A job that has taken its last step goes on: its result costs nothing more.
    """
    progress = job.progress or {}
    if not job.early_stopping or progress.get("step") == progress.get("total_steps"):
        return None

    rule = MedianRule.from_json(job.early_stopping)
    valid = select(Metric.step, Metric.values).where(Metric.split == "valid")
    own = session.execute(valid.where(Metric.job_id == job.id).order_by(Metric.step)).all()
    siblings = valid.join(Job, Job.id == Metric.job_id).where(Job.sweep_id == job.sweep_id, Job.id != job.id)
    steps = [row.step for row in own if row.step >= rule.min_step]
    step = session.scalar(_last_shared_step(siblings, steps, rule.min_jobs))
    if step is None:
        return None

    others = session.execute(siblings.where(Metric.step == step)).all()
    values = [[row.values.get(rule.metric) for row in rows] for rows in (own, others)]
    return judge(rule, step, own=values[0], others=values[1])


def _last_shared_step(siblings: Select[Any, Any], own: Sequence[int], min_jobs: int) -> Select[int]:
    """The last of the job's own steps that so many others have reached: a job may be ahead of them."""
    counted = siblings.with_only_columns(Metric.step).where(Metric.step.in_(own)).group_by(Metric.step)
    return counted.having(func.count() >= min_jobs).order_by(Metric.step.desc()).limit(1)


def judge(rule: MedianRule, step: int, *, own: Sequence[Any], others: Sequence[Any]) -> StoppedEarly | None:
    """`own` are all values that the job has had, `others` those of its siblings at this step; None is no number."""
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
