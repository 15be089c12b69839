"""Jobs as a reader sees them: rows joined with their evidence and their position in the queue."""

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.evidence.tables import Evidence
from app.jobs.answers import JobObject
from app.jobs.queue import waiting
from app.jobs.queue.fair_share import EQUAL, ProjectShares
from app.jobs.queue.queries import find_job
from app.jobs.queue.tables import Job

# Composing a statement costs as much as running it: these are composed once.
_OF_PROJECT: Final = (Job.id == bindparam("job_id"), Job.project == bindparam("project"))
_ONE: Final = select(Job).where(*_OF_PROJECT)
_EVIDENCE: Final = select(Evidence).where(Evidence.job_id.in_(bindparam("ended", expanding=True)))


def read(session: Session, project: str, job_id: str, shares: ProjectShares = EQUAL) -> tuple[JobObject, Job]:
    """One job as a poller sees it, and its row. Raises NotFound when it is not this project's."""
    job = session.scalar(_ONE, {"job_id": job_id, "project": project}) or find_job(session, project, job_id)
    return job_objects(session, [job], shares)[0], job


def job_objects(session: Session, jobs: Sequence[Job], shares: ProjectShares = EQUAL) -> list[JobObject]:
    """The jobs of one project with evidence and queue positions; as many queries for a page as for one job."""
    ended = [job.id for job in jobs if job.finished_at is not None]
    evidence = {row.job_id: row for row in session.scalars(_EVIDENCE, {"ended": ended})} if ended else {}
    positions = waiting.queue_positions(session, jobs[0].project, jobs, shares) if jobs else {}
    return [JobObject.of(job, evidence=evidence.get(job.id), position=positions.get(job.id)) for job in jobs]


def etag(job: JobObject, version: int) -> str:
    """A weak ETag: the row's version, and what changes without the row while a job waits."""
    reason = f".{crc32(job.waiting_for.encode()):08x}" if job.waiting_for else ""
    return f'W/"{version}.{job.queue_position or 0}{reason}"'
