"""Ranks the jobs of a sweep by its metric, from the points of their curves."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from app.evidence.tables import Evidence
from app.jobs.answers import EvidenceSummary
from app.jobs.queue.tables import Job, Metric
from app.sweeps.metrics import LAST_STEPS, RankingMetric
from app.sweeps.schemas import RankedJob
from app.sweeps.tables import Sweep

#: A job that ended so has no result to use, and so no rank.
_WITHOUT_RESULT = frozenset({"failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Measured:
    """A job's value of the metric, and the step at which it was measured."""

    value: float
    step: int


def ranked(session: Session, sweep: Sweep, jobs: Sequence[Job]) -> list[RankedJob]:
    """The jobs from the best to the worst, then those without a value; equal ones in the order of the request."""
    metric = RankingMetric.from_json(sweep.metric)
    values = measured(session, sweep.id, metric)
    evidence = {row.job_id: row for row in session.scalars(select(Evidence).where(Evidence.job_id.in_(_ids(jobs))))}

    def sort_key(job: Job) -> tuple[bool, bool, float]:
        found = values.get(job.id)
        return found is None, job.status in _WITHOUT_RESULT, metric.cost(found.value) if found else 0.0

    variations = {entry["job_id"]: entry["values"] for entry in sweep.variations}
    ranks: Iterator[int] = iter(range(1, len(jobs) + 1))
    rows = []
    for job in sorted(jobs, key=sort_key):
        found = values.get(job.id)
        counts = found is not None and job.status not in _WITHOUT_RESULT
        rows.append(
            RankedJob(
                rank=next(ranks) if counts else None,
                job_id=job.id,
                status=job.status,  # type: ignore[arg-type]
                values=variations.get(job.id, {}),
                value=found.value if found else None,
                step=found.step if found else None,
                verdict=EvidenceSummary.of(evidence.get(job.id), status=job.status).verdict,
                fine_tuned_model=job.fine_tuned_model,
                seconds=_seconds(job),
                stopped=((job.early_stopping or {}).get("stopped") or {}).get("reason"),
            )
        )
    return rows


def measured(session: Session, sweep_id: str, metric: RankingMetric) -> dict[str, Measured]:
    """The metric's value of each job that has one: of its last evaluation, or the mean of its last training losses."""
    last = (
        select(Metric.job_id, func.max(Metric.step).label("step"))
        .join(Job, Job.id == Metric.job_id)
        .where(Job.sweep_id == sweep_id, Metric.split == metric.split)
        .group_by(Metric.job_id)
        .subquery()
    )
    first_step = last.c.step if metric.split == "valid" else last.c.step - LAST_STEPS + 1
    points = select(Metric.job_id, Metric.values, last.c.step).join(
        last, and_(Metric.job_id == last.c.job_id, Metric.step >= first_step)
    )

    numbers: dict[tuple[str, int], list[float]] = defaultdict(list)
    for job_id, values, step in session.execute(points.where(Metric.split == metric.split)):
        if _is_number(value := values.get(metric.name)):
            numbers[job_id, step].append(float(value))
    return {job_id: Measured(statistics.fmean(found), step) for (job_id, step), found in numbers.items()}


def _ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _seconds(job: Job) -> float | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return (job.finished_at - job.started_at).total_seconds()
