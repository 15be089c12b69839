"""Sweeps as a reader sees them: rows joined with the states of their jobs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.sweeps.queries import find_sweep, job_counts, jobs_of
from app.sweeps.ranking import ranked
from app.sweeps.schemas import BestJob, SweepObject, SweepSummary
from app.sweeps.tables import Sweep


def read(session: Session, project: str, sweep_id: str) -> SweepObject:
    """One sweep with its jobs ranked. Raises NotFound when it is not this project's.

    The session is a snapshot: a job that ends between two queries would be ranked as running in a sweep that has ended.
    """
    sweep = find_sweep(session, project, sweep_id)
    jobs = session.scalars(jobs_of(sweep).order_by(Job.created_at, Job.id)).all()
    ranking = ranked(session, sweep, jobs)
    best = next((row for row in ranking if row.rank is not None and row.status == "succeeded"), None)
    return SweepObject.model_validate(
        {
            **_fields(session, [sweep])[0],
            "ranking": ranking,
            "best": BestJob(job_id=best.job_id, fine_tuned_model=best.fine_tuned_model, value=best.value)
            if best and best.value is not None
            else None,
        }
    )


def summaries(session: Session, sweeps: Sequence[Sweep]) -> list[SweepSummary]:
    """Sweeps of a page; as many queries as for one."""
    return [SweepSummary.model_validate(fields) for fields in _fields(session, sweeps)]


def state(counts: Mapping[str, int], *, cancelled: bool) -> str:
    """A sweep's state, from the number of its jobs in each."""
    if any(count for status, count in counts.items() if status not in TERMINAL):
        return "running"
    if cancelled:
        return "cancelled"
    return "succeeded" if counts.get("succeeded") else "failed"


def _fields(session: Session, sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    counts = job_counts(session, sweeps)
    ends = _ends(session, [sweep.id for sweep in sweeps])
    rows = []
    for sweep in sweeps:
        status = state(counts[sweep.id], cancelled=sweep.cancelled_at is not None)
        rows.append(
            {
                "id": sweep.id,
                "created_at": _seconds(sweep.created_at),
                "finished_at": _seconds(ends.get(sweep.id)) if status != "running" else None,
                "cancelled_at": _seconds(sweep.cancelled_at),
                "status": status,
                "model": sweep.model,
                "task": sweep.task,
                "training_file": sweep.training_file,
                "validation_file": sweep.validation_file,
                "metadata": sweep.meta,
                "metric": sweep.metric,
                "early_stopping": sweep.early_stopping,
                "warnings": sweep.warnings,
                "job_counts": {"total": len(sweep.variations), **counts[sweep.id]},
            }
        )
    return rows


def _ends(session: Session, ids: Sequence[str]) -> dict[str, datetime]:
    latest = select(Job.sweep_id, func.max(Job.finished_at)).where(Job.sweep_id.in_(ids)).group_by(Job.sweep_id)
    return {str(sweep_id): end for sweep_id, end in session.execute(latest) if end is not None}


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at is not None else None
