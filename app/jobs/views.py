"""Jobs as a reader sees them: rows joined with their evidence and their place in the queue; polls from memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.evidence.tables import Evidence
from app.jobs import lifecycle, waiting
from app.jobs.answers import JobObject
from app.jobs.states import CLAIMABLE, TERMINAL
from app.jobs.tables import Job

# Polls are most of the traffic, and composing a statement costs as much as running it: these are composed once.
_MINE: Final = (Job.id == bindparam("job_id"), Job.project == bindparam("project"))
_ONE: Final = select(Job).where(*_MINE)
_STAMP: Final = select(Job.version, Job.status).where(*_MINE)
_EVIDENCE: Final = select(Evidence).where(Evidence.job_id.in_(bindparam("ended", expanding=True)))


@dataclass(frozen=True, slots=True)
class Written:
    """A job as it goes over the wire, and the tag of that state of it."""

    body: str
    etag: str
    ended: bool


class Recent:
    """Jobs that were polled lately, written out: a version of a job reads the same however often it is asked for.

    The database says each time which version is the current one, and whose it is. A job that waits is not kept: its
    place in the queue moves without it.
    """

    def __init__(self, *, most: int = 2_000) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[tuple[int, str], Written]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, session: Session, project: str, job_id: str) -> Written:
        """NotFound when the job is not this project's."""
        row = session.execute(_STAMP, {"job_id": job_id, "project": project}).one_or_none()
        stamp = (row.version, row.status) if row is not None else None
        with self._lock:
            kept = self._kept.get(job_id)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        answer, job = read(session, project, job_id)
        written = Written(answer.model_dump_json(), etag(answer, job.version), job.status in TERMINAL)
        if job.status not in CLAIMABLE:
            self._keep(job, written)
        return written

    def _keep(self, job: Job, written: Written) -> None:
        with self._lock:
            self._kept[job.id] = ((job.version, job.status), written)
            self._kept.move_to_end(job.id)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)


def read(session: Session, project: str, job_id: str) -> tuple[JobObject, Job]:
    """One job as a poller sees it, and its row. NotFound when it is not this project's."""
    job = session.scalar(_ONE, {"job_id": job_id, "project": project}) or lifecycle.find(session, project, job_id)
    return shown(session, [job])[0], job


def shown(session: Session, jobs: Sequence[Job]) -> list[JobObject]:
    """The jobs of one project with evidence and places, in as many queries for a page as for one."""
    ended = [job.id for job in jobs if job.finished_at is not None]
    evidence = {row.job_id: row for row in session.scalars(_EVIDENCE, {"ended": ended})} if ended else {}
    places = waiting.places(session, jobs[0].project, jobs) if jobs else {}
    return [JobObject.of(job, evidence=evidence.get(job.id), place=places.get(job.id)) for job in jobs]


def etag(job: JobObject, version: int) -> str:
    """Weak: equal tags mean that nothing of note has changed. The place in the queue moves without the row."""
    return f'W/"{version}.{job.queue_position or 0}"'
