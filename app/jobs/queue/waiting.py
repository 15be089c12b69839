"""The queue as those who wait in it see it: how many go first, and when it will be their turn."""

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

#: Places further back than this are not counted: who waits behind a thousand jobs does not need the exact number.
COUNTED: Final = 1_000
#: Ended jobs of a project that tell how long one takes.
ENDED: Final = 20

_QUEUE: Final = select(Job.id).where(WAITING, Job.desired == "run")
_BEFORE: Final = tuple_(Job.urgency, Job.created_at, Job.id) < tuple_(
    bindparam("urgency", type_=Integer), bindparam("created_at", type_=UtcDateTime), bindparam("id", type_=String)
)


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """1 for the job that starts next; COUNTED + 1 says "at least so far back"."""

    position: int
    starts_at: datetime | None
    waiting_for: str | None = None  # what there is not, whoever's turn it is


def waits(job: Job) -> bool:
    return job.status in CLAIMABLE and job.desired == "run"


def queue_positions(session: Session, project: str, jobs: Sequence[Job]) -> dict[str, QueuePosition]:
    """Of those of a project's jobs that wait, in as many queries for a page as for one."""
    waiting = [job for job in jobs if waits(job)]
    if not waiting:
        return {}
    at, free_in, one_takes = now(session), _free_in(session), _one_takes(session, project)
    positions, lacking = _positions(session, waiting), workers.too_large(session, waiting)
    found = {}
    for job in waiting:
        reason = lacking.get(job.id)
        start = None if reason else _start(job, positions[job.id], at, free_in, one_takes)
        found[job.id] = QueuePosition(positions[job.id], start, reason)
    return found


def ahead(most: int) -> Select[int]:
    """How many jobs go before a waiting one, counted up to `most`."""
    return select(func.count()).select_from(_QUEUE.where(_BEFORE).limit(most).subquery())


def first(most: int) -> Select[str]:
    """The ids of those that go first."""
    return _QUEUE.order_by(Job.urgency, Job.created_at, Job.id).limit(most)


_AHEAD: Final = ahead(COUNTED)
_FIRST: Final = first(COUNTED)
_RUNNING: Final = select(Job.progress).where(Job.lease_until.is_not(None), Job.status.in_(LEASED)).limit(COUNTED)
_TOOK: Final = (
    select(Job.started_at, Job.finished_at)
    .where(Job.project == bindparam("project"), Job.status == "succeeded")
    .order_by(Job.created_at.desc(), Job.id.desc())
    .limit(ENDED)
)


def _positions(session: Session, waiting: Sequence[Job]) -> dict[str, int]:
    if len(waiting) > 1:
        found = {job_id: place for place, job_id in enumerate(session.scalars(_FIRST), start=1)}
        return {job.id: found.get(job.id, COUNTED + 1) for job in waiting}
    (job,) = waiting
    before = {"created_at": job.created_at, "id": job.id, "urgency": job.urgency}
    return {job.id: 1 + session.scalars(_AHEAD, before).one()}


def _free_in(session: Session) -> list[float | None]:
    """Seconds until each device that runs a job is free again, as its job's last report has it."""
    found = [(progress or {}).get("eta_seconds") for progress in session.scalars(_RUNNING)]
    return sorted(found, key=lambda each: (each is None, each))


def _one_takes(session: Session, project: str) -> float | None:
    """Seconds that a job takes: the median of the project's last ones."""
    took = [
        (ended - started).total_seconds()
        for started, ended in session.execute(_TOOK, {"project": project})
        if started is not None and ended is not None
    ]
    return statistics.median(took) if took else None


def _start(
    job: Job, position: int, at: datetime, free_in: Sequence[float | None], one_takes: float | None
) -> datetime | None:
    """Those ahead take the devices in turns. None while nothing runs, or where nobody knows how long it takes."""
    if not free_in or position > COUNTED:
        return None
    rounds, turn = divmod(position - 1, len(free_in))
    wait = free_in[turn] if free_in[turn] is not None else one_takes
    if wait is None or (rounds and one_takes is None):
        return None
    start = at + timedelta(seconds=wait + rounds * (one_takes or 0.0))
    return max(start, job.not_before) if job.not_before is not None else start
