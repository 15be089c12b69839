"""Queries of jobs."""

from sqlalchemy import select

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.queries import waiting_jobs, waiting_projects
from tests.app.jobs.jobs import new_job
from tests.app.jobs.plans import crowd, plan_of


def test_waiting_jobs_are_read_from_an_index(db: Database) -> None:
    """The queue's own, in its order: as many rows are read as are asked for."""
    lifecycle.submit(db, new_job())
    crowd(db)
    plan = plan_of(db, lambda session: waiting_jobs(session, now(session), most=1))
    assert "ix_jobs_queue" in plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan


def test_projects_that_wait_are_found_one_by_one(db: Database) -> None:
    """From the same index, without a look at their other jobs; those whose jobs have ended are not there."""
    for project in ("b", "a", "b", "c"):
        lifecycle.submit(db, new_job(project=project))
    crowd(db)

    found = select(waiting_projects())
    with db.read() as session:
        assert sorted(filter(None, session.scalars(found))) == ["a", "b", "c"]
    plan = plan_of(db, lambda session: session.scalars(found).all())
    assert "ix_jobs_queue" in plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan
