"""Positions of waiting jobs in the queue, and estimates of when they start."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Integer, Select, String, bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from app.db import UtcDateTime, now
from app.jobs.queue import workers
from app.jobs.queue.states import CLAIMABLE, LEASED
from app.jobs.queue.tables import WAITING, Job

#: Positions further back than this are not counted: behind a thousand jobs the exact number does not matter.
COUNTED: Final = 1_000
#: Finished jobs of a project from which the duration of one is estimated.
ENDED: Final = 20

_QUEUE: Final = select(Job.id).where(WAITING, Job.desired == "run")
_BEFORE: Final = tuple_(Job.urgency, Job.created_at, Job.id) < tuple_(
    bindparam("urgency", type_=Integer), bindparam("created_at", type_=UtcDateTime), bindparam("id", type_=String)
)


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a waiting job is: 1 starts next, COUNTED + 1 means "at least so far back"."""

    position: int
    starts_at: datetime | None
    waiting_for: str | None = None  # why the job cannot start, even when it is first


def waits(job: Job) -> bool:
    """Whether the job is in the queue."""
    return job.status in CLAIMABLE and job.desired == "run"


def queue_positions(session: Session, project: str, jobs: Sequence[Job]) -> dict[str, QueuePosition]:
    """Queue positions of those of a project's jobs that wait, by job id; as many queries for a page as for one job."""
    waiting = [job for job in jobs if waits(job)]
    if not waiting:
        return {}

    at, free_in, job_seconds = now(session), _free_in(session), _job_seconds(session, project)
    numbers, lacking = _numbers(session, waiting), workers.lacking(session, waiting, at=at)
    positions = {}
    for job in waiting:
        start = None if job.id in lacking else _start(job, numbers[job.id], at, free_in, job_seconds)
        reason = lacking.get(job.id) or _pause_after_crash(job, at)
        positions[job.id] = QueuePosition(numbers[job.id], start, reason)
    return positions


def ahead(most: int) -> Select[int]:
    """How many jobs are ahead of a waiting one, counted up to `most`."""
    return select(func.count()).select_from(_QUEUE.where(_BEFORE).limit(most).subquery())


def first(most: int) -> Select[str]:
    """The ids of the first `most` jobs of the queue, in its order."""
    return _QUEUE.order_by(Job.urgency, Job.created_at, Job.id).limit(most)


_AHEAD: Final = ahead(COUNTED)
_FIRST: Final = first(COUNTED)
_RUNNING: Final = select(Job.progress).where(Job.lease_until.is_not(None), Job.status.in_(LEASED)).limit(COUNTED)
_DURATIONS: Final = (
    select(Job.started_at, Job.finished_at)
    .where(Job.project == bindparam("project"), Job.status == "succeeded")
    .order_by(Job.created_at.desc(), Job.id.desc())
    .limit(ENDED)
)


def _numbers(session: Session, waiting: Sequence[Job]) -> dict[str, int]:
    """Positions by job id, from one query: the front of the queue, or for one job the number of those ahead."""
    if len(waiting) > 1:
        numbers = {job_id: number for number, job_id in enumerate(session.scalars(_FIRST), start=1)}
        return {job.id: numbers.get(job.id, COUNTED + 1) for job in waiting}

    (job,) = waiting
    before = {"created_at": job.created_at, "id": job.id, "urgency": job.urgency}
    return {job.id: 1 + session.scalars(_AHEAD, before).one()}


def _free_in(session: Session) -> list[float | None]:
    """Seconds until each busy device is free again, by its job's last report; None (last) where that is unknown."""
    left = [(progress or {}).get("eta_seconds") for progress in session.scalars(_RUNNING)]
    return sorted(left, key=lambda seconds: (seconds is None, seconds))


def _job_seconds(session: Session, project: str) -> float | None:
    """Seconds that a job takes: the median of the project's last finished ones."""
    durations = [
        (ended - started).total_seconds()
        for started, ended in session.execute(_DURATIONS, {"project": project})
        if started is not None and ended is not None
    ]
    return statistics.median(durations) if durations else None


def _pause_after_crash(job: Job, at: datetime) -> str | None:
    if job.not_before is None or job.not_before <= at:
        return None
    return f"the end of a pause after a crash, at {job.not_before:%Y-%m-%dT%H:%M:%SZ}"


def _start(
    job: Job, position: int, at: datetime, free_in: Sequence[float | None], job_seconds: float | None
) -> datetime | None:
    """When the job starts if the jobs ahead take the devices in turns; None where a duration is not known."""
    if not free_in or position > COUNTED:
        return None

    rounds, turn = divmod(position - 1, len(free_in))
    wait = free_in[turn] if free_in[turn] is not None else job_seconds
    if wait is None or (rounds and job_seconds is None):
        return None

    start = at + timedelta(seconds=wait + rounds * (job_seconds or 0.0))
    return max(start, job.not_before) if job.not_before is not None else start
