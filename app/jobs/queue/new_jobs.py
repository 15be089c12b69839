"""Stores new jobs: their rows, the labels by which lists find them, and their first events."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy.orm import Session

from app.auth.quotas import lock_project
from app.db import now
from app.jobs.queue import event_log
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.fair_share import AGING, queue_time
from app.jobs.queue.queries import check_quota
from app.jobs.queue.tables import Job, Label

#: Keeps a job's files and models from being deleted before the transaction ends, or raises where one is gone.
Protect = Callable[[Session, Job], None]


def store(
    session: Session, jobs: Sequence[Job], *, active_limit: int | None, protect: Protect, aging: float = AGING
) -> None:
    """Stores new jobs on the same inputs: all or none of them, in this order, in the caller's transaction.

    `active_limit` is how many jobs of a project may be under way, these included; `aging` is how many seconds of
    waiting a point of priority is worth. Raises QuotaSpent, and what `protect` raises.
    """
    if active_limit is not None:
        lock_project(session, jobs[0].project)
        check_quota(session, jobs[0].project, active_limit, requested=len(jobs))
    protect(session, jobs[0])

    at = now(session)
    for number, job in enumerate(jobs):
        job.created_at = at + timedelta(microseconds=number)  # the queue's order, and that of lists
        job.queue_time = queue_time(job.created_at, job.priority or 0, aging=aging)
    session.add_all(jobs)
    session.flush()

    for job in jobs:
        session.add_all(Label.all_of(job))
        event_log.append(session, job.id, [NewEvent("Job created")])
