"""Answers polls of single jobs, most of this service's requests, from memory after a cheap look at the database."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import bindparam, select

from app.db import Database
from app.errors import PermafrostError
from app.jobs import views
from app.jobs.answers import JobObject
from app.jobs.live.single_flight import SingleFlight
from app.jobs.queue.fair_share import EQUAL, ProjectShares
from app.jobs.queue.queries import missing_job
from app.jobs.queue.states import CLAIMABLE
from app.jobs.queue.tables import Job

# Composing a statement costs as much as running it: these are composed once.
_REQUESTED: Final = (Job.project == bindparam("project"), Job.id.in_(bindparam("job_ids", expanding=True)))
_STAMPS: Final = select(Job.id, Job.version, Job.status).where(*_REQUESTED)
_ROWS: Final = select(Job).where(*_REQUESTED)

#: The version and the status of a job: the answer is the same as long as they are.
Stamp = tuple[int, str]


@dataclass(frozen=True, slots=True)
class RenderedJob:
    """A job as bytes of JSON, with the ETag of that state of it."""

    body: bytes
    etag: str
    ended: bool


class PollCache:
    """A cache of up to `most` jobs that were polled lately, as bytes of JSON.

    Each poll reads the current version and the project from the database; simultaneous polls of a project share this
    read. A waiting job is not cached: its position in the queue changes without its row.
    """

    def __init__(self, db: Database, shares: ProjectShares = EQUAL, *, most: int = 2_000) -> None:
        self._db = db
        self._shares = shares
        self._most = most
        self._cache: OrderedDict[str, tuple[Stamp, RenderedJob]] = OrderedDict()
        self._lock = threading.Lock()
        self._single_flight = SingleFlight(self._read)

    async def read(self, project: str, job_id: str) -> RenderedJob:
        """The job as bytes. Raises NotFound when it is not this project's, and Gone when it was deleted."""
        rendered = await self._single_flight.ask(project, job_id)
        if rendered is None:
            raise await run_in_threadpool(self._missing, project, job_id)
        return rendered

    def _missing(self, project: str, job_id: str) -> PermafrostError:
        with self._db.read() as session:
            return missing_job(session, project, job_id)

    def _read(self, project: str, job_ids: Sequence[str]) -> dict[str, RenderedJob]:
        with self._db.read() as session:
            rows = session.execute(_STAMPS, {"project": project, "job_ids": job_ids})
            stamps: dict[str, Stamp] = {job_id: (version, status) for job_id, version, status in rows}

            rendered = self._cached(stamps)
            if new := stamps.keys() - rendered.keys():
                jobs = session.scalars(_ROWS, {"project": project, "job_ids": list(new)}).all()
                for job, answer in zip(jobs, views.job_objects(session, jobs, self._shares), strict=True):
                    rendered[job.id] = self._render(job, answer)
        return rendered

    def _cached(self, stamps: Mapping[str, Stamp]) -> dict[str, RenderedJob]:
        with self._lock:
            entries = {job_id: self._cache[job_id] for job_id in stamps if job_id in self._cache}
        return {job_id: rendered for job_id, (stamp, rendered) in entries.items() if stamp == stamps[job_id]}

    def _render(self, job: Job, answer: JobObject) -> RenderedJob:
        body, etag = answer.model_dump_json().encode(), views.etag(answer, job.version)
        rendered = RenderedJob(body, etag, ended=job.ended)
        if job.status not in CLAIMABLE:
            with self._lock:
                self._cache[job.id] = ((job.version, job.status), rendered)
                self._cache.move_to_end(job.id)
                if len(self._cache) > self._most:
                    self._cache.popitem(last=False)
        return rendered
