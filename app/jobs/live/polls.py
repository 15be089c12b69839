"""Polls of single jobs, most of what this service is asked: from memory, once the database has said what is current."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select

from app.db import Database
from app.jobs import views
from app.jobs.answers import JobObject
from app.jobs.live.single_flight import SingleFlight
from app.jobs.queue.queries import unknown_job
from app.jobs.queue.states import CLAIMABLE, TERMINAL
from app.jobs.queue.tables import Job

# Composing a statement costs as much as running it: these are composed once.
_THESE: Final = (Job.project == bindparam("project"), Job.id.in_(bindparam("job_ids", expanding=True)))
_STAMPS: Final = select(Job.id, Job.version, Job.status).where(*_THESE)
_ROWS: Final = select(Job).where(*_THESE)

#: The version and the state of a job: as long as they are the same, so is the answer.
Stamp = tuple[int, str]


@dataclass(frozen=True, slots=True)
class RenderedJob:
    """A job as it goes over the wire, and the tag of that state of it."""

    body: bytes
    etag: str
    ended: bool


class PollCache:
    """Jobs that were polled lately, written out: a version of a job reads the same however often it is asked for.

    The database says for each poll which version is the current one, and whose it is; polls of a project that come at
    the same moment ask it together. A job that waits is not kept: its place in the queue moves without it.
    """

    def __init__(self, db: Database, *, most: int = 2_000) -> None:
        self._db = db
        self._most = most
        self._kept: OrderedDict[str, tuple[Stamp, RenderedJob]] = OrderedDict()
        self._lock = threading.Lock()
        self._together = SingleFlight(self._read)

    async def read(self, project: str, job_id: str) -> RenderedJob:
        """NotFound when the job is not this project's."""
        written = await self._together.ask(project, job_id)
        if written is None:
            raise unknown_job(job_id)
        return written

    def _read(self, project: str, job_ids: Sequence[str]) -> dict[str, RenderedJob]:
        with self._db.read() as session:
            rows = session.execute(_STAMPS, {"project": project, "job_ids": job_ids})
            stamps: dict[str, Stamp] = {job_id: (version, status) for job_id, version, status in rows}
            found = self._known(stamps)
            if new := stamps.keys() - found.keys():
                jobs = session.scalars(_ROWS, {"project": project, "job_ids": list(new)}).all()
                for job, answer in zip(jobs, views.shown(session, jobs), strict=True):
                    found[job.id] = self._write(job, answer)
        return found

    def _known(self, stamps: Mapping[str, Stamp]) -> dict[str, RenderedJob]:
        with self._lock:
            kept = {job_id: self._kept[job_id] for job_id in stamps if job_id in self._kept}
        return {job_id: written for job_id, (stamp, written) in kept.items() if stamp == stamps[job_id]}

    def _write(self, job: Job, answer: JobObject) -> RenderedJob:
        written = RenderedJob(
            answer.model_dump_json().encode(), views.etag(answer, job.version), job.status in TERMINAL
        )
        if job.status not in CLAIMABLE:
            with self._lock:
                self._kept[job.id] = ((job.version, job.status), written)
                self._kept.move_to_end(job.id)
                if len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return written
