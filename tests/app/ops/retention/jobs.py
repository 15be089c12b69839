"""Jobs that ended some time ago, with what they left."""

from datetime import timedelta

from sqlalchemy import update

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, Outcome
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.logs import queries as logs
from tests.app.jobs.jobs import claim, new_job


def ended_job(db: Database, job_id: str, *, days: float, count: int = 3) -> None:
    """A job that ended so many days ago, with `count` events, points and log chunks besides what every job has."""
    running_job(db, job_id, count=count)
    lifecycle.finish(db, leases[job_id], Outcome("failed", error={"message": "as it should"}))
    with db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=now(session) - timedelta(days=days)))


def running_job(db: Database, job_id: str, *, count: int = 3) -> None:
    lifecycle.submit(db, new_job(id=job_id))
    leases[job_id] = lease = claim(db)
    points = [(step, "train", {"loss": 1.0 / step}) for step in range(1, count + 1)]
    events = [NewEvent(f"event {number}") for number in range(count)]
    lifecycle.beat(db, lease, AttemptUpdates(events=events, metrics=[*points, (1, "valid", {"loss": 2.0})]))
    for number in range(count):
        with db.write() as session:
            logs.append(session, job_id, 1, [f"line {number}"])


leases: dict[str, Lease] = {}
