"""Queries of jobs."""

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.queries import claimable
from tests.app.jobs.jobs import new_job
from tests.app.jobs.plans import crowd, plan_of


def test_the_next_job_is_taken_from_an_index(db: Database) -> None:
    """The queue's own: however many wait, one row is read."""
    lifecycle.submit(db, new_job())
    crowd(db)
    plan = plan_of(db, lambda session: session.scalars(claimable(now(session)).limit(1)).all())
    assert "ix_jobs_waiting" in plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan
