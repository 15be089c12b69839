"""Jobs as a reader sees them: rows joined with their evidence and their place in the queue."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Integer, Select, String, bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from app.db import UtcDateTime
from app.evidence.tables import Evidence
from app.jobs import lifecycle
from app.jobs.answers import JobObject
from app.jobs.states import CLAIMABLE
from app.jobs.tables import WAITING, Job

# Polls are most of the traffic, and composing a statement costs as much as running it: these are composed once.
_ONE: Final = select(Job).where(Job.id == bindparam("job_id"), Job.project == bindparam("project"))
_EVIDENCE: Final = select(Evidence).where(Evidence.job_id.in_(bindparam("ended", expanding=True)))
#: Places further back than this are not counted: who waits behind a thousand jobs does not need the exact number.
COUNTED: Final = 1_000
_QUEUE: Final = select(Job.id).where(WAITING, Job.desired == "run")
_BEFORE: Final = tuple_(Job.urgency, Job.created_at, Job.id) < tuple_(
    bindparam("urgency", type_=Integer), bindparam("created_at", type_=UtcDateTime), bindparam("id", type_=String)
)


def ahead(most: int) -> Select[int]:
    """How many jobs go before a waiting one, counted up to `most`."""
    return select(func.count()).select_from(_QUEUE.where(_BEFORE).limit(most).subquery())


def first(most: int) -> Select[str]:
    """The ids of those that go first."""
    return _QUEUE.order_by(Job.urgency, Job.created_at, Job.id).limit(most)


_AHEAD: Final = ahead(COUNTED)
_FIRST: Final = first(COUNTED)


def read(session: Session, project: str, job_id: str) -> tuple[JobObject, Job]:
    """One job as a poller sees it, and its row. NotFound when it is not this project's."""
    job = session.scalar(_ONE, {"job_id": job_id, "project": project}) or lifecycle.find(session, project, job_id)
    return shown(session, [job])[0], job


def shown(session: Session, jobs: Sequence[Job]) -> list[JobObject]:
    """The jobs with evidence and places, in as many queries for a page as for one."""
    ended = [job.id for job in jobs if job.finished_at is not None]
    evidence = {row.job_id: row for row in session.scalars(_EVIDENCE, {"ended": ended})} if ended else {}
    places = _places(session, [job for job in jobs if job.status in CLAIMABLE and job.desired == "run"])
    return [JobObject.of(job, evidence=evidence.get(job.id), position=places.get(job.id)) for job in jobs]


def _places(session: Session, waiting: Sequence[Job]) -> dict[str, int]:
    """1 for the job that starts next. None is counted beyond COUNTED: COUNTED + 1 says "at least so far back"."""
    if len(waiting) > 1:
        places = {job_id: place for place, job_id in enumerate(session.scalars(_FIRST), start=1)}
        return {job.id: places.get(job.id, COUNTED + 1) for job in waiting}
    return {
        job.id: 1 + session.scalars(_AHEAD, {"created_at": job.created_at, "id": job.id, "urgency": job.urgency}).one()
        for job in waiting
    }


def etag(job: JobObject, version: int) -> str:
    """Weak: equal tags mean that nothing of note has changed. The place in the queue moves without the row."""
    return f'W/"{version}.{job.queue_position or 0}"'
