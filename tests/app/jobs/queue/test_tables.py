"""Rows of jobs and of what belongs to them."""

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.tables import Job, Label
from tests.app.jobs.jobs import new_job


def test_labels_go_with_their_job(db: Database) -> None:
    """No row is left when a job's is deleted."""
    job, _ = lifecycle.submit(db, new_job(meta={"a": "b"}, tags=["t"]))
    with db.write() as session:
        assert session.query(Label).count() == 2
        session.delete(session.get_one(Job, job.id))
    with db.read() as session:
        assert session.query(Label).count() == 0
