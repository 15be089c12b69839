"""Jobs as rows that are looked up, counted and queued; what changes them is the lifecycle."""

from datetime import datetime

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.auth.quotas import check
from app.errors import NotFound
from app.jobs.queue.states import MOVES, TERMINAL
from app.jobs.queue.tables import WAITING, Job


def find_job(session: Session, project: str, job_id: str, *, lock: bool = False) -> Job:
    """The job, if it is this project's; another project's job is not found, and not 'forbidden'.

    With `lock` nobody else moves it before this transaction ends: two who wish the same at once get the same answer.
    """
    mine = select(Job).where(Job.id == job_id, Job.project == project)
    job = session.scalar(mine.with_for_update() if lock else mine)
    if job is None:
        raise unknown_job(job_id)
    return job


def unknown_job(job_id: str) -> NotFound:
    return NotFound(f"no fine-tuning job {job_id!r} in this project", param="fine_tuning_job_id")


def claimable(at: datetime) -> Select[Job]:
    """Jobs that wait for a worker, in the order in which they will be taken."""
    waiting = (WAITING, Job.desired == "run", or_(Job.not_before.is_(None), Job.not_before <= at))
    return select(Job).where(*waiting).order_by(Job.urgency, Job.created_at, Job.id)


def check_quota(session: Session, project: str, limit: int) -> None:
    """Raises QuotaSpent unless the project may have one job more under way."""
    under_way = (Job.project == project, Job.status.in_(MOVES.keys() - TERMINAL))
    active = select(func.count()).where(*under_way).scalar_subquery()
    remedy = "wait for one to end, or cancel one"
    check(session, active, asked=1, limit=limit, what="jobs that have not ended", remedy=remedy)
