"""Which workers are alive, and whether one of them has enough devices for a job."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue.tables import Job, Worker

#: A worker registers at every sweep; one that has missed several sweeps is taken to be gone.
PRESENT: Final = timedelta(minutes=2)
FORGOTTEN: Final = timedelta(days=1)


def register(db: Database, worker: str, *, devices: int, kind: str) -> None:
    """Records that this worker is alive, with so many devices of a kind (`cpu`, `cuda`)."""
    with db.write() as session:
        at = now(session)
        session.merge(Worker(id=worker, devices=devices, kind=kind, seen_at=at))
        session.execute(delete(Worker).where(Worker.seen_at < at - FORGOTTEN))


def too_large(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """Why no worker could start them, for those of the waiting jobs that need more devices than any has.

    One query; none for jobs of one device.
    """
    large = [job for job in jobs if job.devices > 1]
    if not large:
        return {}

    present = Worker.seen_at > now(session) - PRESENT
    most, count = session.execute(select(func.max(Worker.devices), func.count()).where(present)).one()
    return {job.id: _reason(job.devices, most, count) for job in large if job.devices > (most or 0)}


def _reason(devices: int, most: int | None, count: int) -> str:
    if not count:
        return f"a worker with {devices} devices: no worker is alive now"
    others = "the only worker alive has" if count == 1 else f"the largest of {count} workers has"
    return f"a worker with {devices} devices: {others} {most}"
