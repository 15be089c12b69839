"""Looks sweeps and their jobs up."""

from collections.abc import Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db import Lock, locked
from app.errors import NotFound
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.sweeps.tables import Sweep


def find_sweep(session: Session, project: str, sweep_id: str, *, lock: Lock | None = None) -> Sweep:
    """The sweep, if it is this project's. Raises NotFound, also for another project's sweep."""
    statement = select(Sweep).where(Sweep.id == sweep_id, Sweep.project == project)
    sweep = session.scalar(locked(statement, lock))
    if sweep is None:
        raise NotFound(f"no sweep {sweep_id!r} in this project", param="sweep_id")
    return sweep


def jobs_of(sweep: Sweep) -> Select[Job]:
    """The sweep's jobs, in any order."""
    return select(Job).where(Job.project == sweep.project, Job.sweep_id == sweep.id)


def unfinished(session: Session, sweep: Sweep) -> bool:
    """Whether any job of the sweep has not ended."""
    return session.scalar(jobs_of(sweep).where(Job.status.not_in(TERMINAL)).limit(1)) is not None


def job_counts(session: Session, sweeps: Sequence[Sweep]) -> dict[str, dict[str, int]]:
    """How many jobs of each sweep are in each state; one query for a page."""
    ids = [sweep.id for sweep in sweeps]
    rows = session.execute(
        select(Job.sweep_id, Job.status, func.count()).where(Job.sweep_id.in_(ids)).group_by(Job.sweep_id, Job.status)
    )
    counts: dict[str, dict[str, int]] = {sweep_id: {} for sweep_id in ids}
    for sweep_id, status, count in rows:
        counts[str(sweep_id)][status] = count
    return counts
