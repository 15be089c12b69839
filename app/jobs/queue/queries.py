"""Looks jobs up, counts them and puts them in the order of the queue; only the lifecycle changes them."""

from datetime import datetime

from sqlalchemy import CTE, func, or_, select
from sqlalchemy.orm import Session

from app.auth.quotas import check
from app.errors import Gone, NotFound
from app.jobs.queue.states import MOVES, TERMINAL, TO_RUN
from app.jobs.queue.tables import WAITING, DeletedJob, Job


def find_job(session: Session, project: str, job_id: str, *, lock: bool = False) -> Job:
    """The job, if it is this project's. Raises NotFound, also for another project's job, and Gone for a deleted one.

    With `lock` no other transaction moves it before this one ends: two equal requests at once get the same answer.
    """
    statement = select(Job).where(Job.id == job_id, Job.project == project)
    job = session.scalar(statement.with_for_update() if lock else statement)
    if job is None:
        raise missing_job(session, project, job_id)
    return job


def missing_job(session: Session, project: str, job_id: str) -> NotFound | Gone:
    """The error for a job that this project does not have.

    Of a deleted one it has the digest by which a copy of its attestation, kept by somebody, is still known.
    """
    record = session.get(DeletedJob, job_id)
    if record is None or record.project != project:
        return NotFound(f"no fine-tuning job {job_id!r} in this project", param="fine_tuning_job_id")

    message = f"job {job_id} was deleted at {record.deleted_at:%Y-%m-%dT%H:%M:%SZ}"
    if record.attestation_sha256 is not None:
        message += (
            f"; its evidence was {record.verdict}, in an attestation with the SHA-256 {record.attestation_sha256}"
        )
    return Gone(message, param="fine_tuning_job_id", code="job_deleted")


def jobs_needing_file(session: Session, project: str, file_id: str) -> list[str]:
    """Ids of the project's unfinished jobs that train on the file or start from its weights, oldest first."""
    unfinished = select(Job).where(Job.project == project, Job.status.not_in(TERMINAL)).order_by(Job.created_at)
    jobs = session.scalars(unfinished)
    return [job.id for job in jobs if file_id in (job.training_file, job.validation_file, job.spec.weights)]


def waiting_projects() -> CTE:
    """The projects that have waiting jobs, found by one look into the queue's index for each of them."""
    next_one = select(Job.project).where(WAITING).order_by(Job.project).limit(1)
    found = select(next_one.scalar_subquery().label("project")).cte("waiting_projects", recursive=True)
    after = next_one.where(Job.project > found.c.project).correlate(found).scalar_subquery()
    return found.union_all(select(after).where(found.c.project.is_not(None)))


def waiting_jobs(session: Session, at: datetime, *, most: int) -> list[str]:
    """Ids of up to `most` jobs that wait for a worker, each project's in the order in which they will be taken."""
    due = (WAITING, Job.desired.in_(TO_RUN), or_(Job.not_before.is_(None), Job.not_before <= at))
    query = select(Job.id).where(*due).order_by(Job.project, Job.queue_time, Job.id).limit(most)
    return list(session.scalars(query))


def check_quota(session: Session, project: str, limit: int, *, requested: int = 1) -> None:
    """Raises QuotaSpent unless the project may have `requested` more jobs under way."""
    unfinished = (Job.project == project, Job.status.in_(MOVES.keys() - TERMINAL))
    active = select(func.count()).where(*unfinished).scalar_subquery()
    remedy = "wait for one to end, or cancel one"
    check(session, active, requested=requested, limit=limit, what="jobs that have not ended", remedy=remedy)
