"""Which workers are there, and whether one of them is large enough for a job."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue.tables import Job, Worker

#: A worker tells of itself at every sweep; one that has missed a few is not counted on.
PRESENT: Final = timedelta(minutes=2)
FORGOTTEN: Final = timedelta(days=1)


def register(db: Database, worker: str, *, devices: int, kind: str) -> None:
    """This worker is here, with so many devices of a kind."""
    with db.write() as session:
        at = now(session)
        session.merge(Worker(id=worker, devices=devices, kind=kind, seen_at=at))
        session.execute(delete(Worker).where(Worker.seen_at < at - FORGOTTEN))


def too_large(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """Of these waiting jobs, those that no worker could start now, and why. One query, and none for ordinary jobs."""
    large = [job for job in jobs if job.devices > 1]
    if not large:
        return {}
    present = Worker.seen_at > now(session) - PRESENT
    most, count = session.execute(select(func.max(Worker.devices), func.count()).where(present)).one()
    return {job.id: _reason(job.devices, most, count) for job in large if job.devices > (most or 0)}


def _reason(wanted: int, most: int | None, count: int) -> str:
    if not count:
        return f"a worker with {wanted} devices: no worker is there now"
    there = "the worker that is there has" if count == 1 else f"the largest of {count} workers has"
    return f"a worker with {wanted} devices: {there} {most}"
