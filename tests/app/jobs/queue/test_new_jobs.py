"""New jobs are stored together or not at all, in the order in which they are given."""

import pytest
from sqlalchemy import func, select

from app.auth.quotas import QuotaSpent
from app.db import Database
from app.jobs.queue import new_jobs
from app.jobs.queue.queries import waiting_jobs
from app.jobs.queue.tables import Event, Job, Label
from tests.app.jobs.jobs import new_job


def test_the_queue_has_them_in_their_order(db: Database) -> None:
    """Though they were stored in the same moment, and their ids are random."""
    jobs = [new_job(tags=["a"]) for _ in range(20)]
    with db.write() as session:
        new_jobs.store(session, jobs, active_limit=20, protect=lambda session, job: None)
    with db.read() as session:
        waiting = waiting_jobs(session, jobs[-1].created_at, most=20)
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Label, Event)]
    assert waiting == [job.id for job in jobs]
    assert counts == [20, 20]


def test_one_too_many_is_none(db: Database) -> None:
    """The quota counts all of them at once."""
    with pytest.raises(QuotaSpent), db.write() as session:
        new_jobs.store(session, [new_job(), new_job()], active_limit=1, protect=lambda session, job: None)
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
