"""Which workers are alive, and why a waiting job cannot start now."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue.tables import Job, Worker

#: A worker registers at least this often, between sweeps too.
REGISTER_SECONDS: Final = 20.0
#: A worker that has not registered for this long is taken to be gone: it has missed three times.
PRESENT: Final = timedelta(minutes=1)
FORGOTTEN: Final = timedelta(days=1)


def register(db: Database, worker: str, *, devices: int, kind: str) -> None:
    """Records that this worker is alive, with so many devices of a kind (`cpu`, `cuda`)."""
    with db.write() as session:
        at = now(session)
        session.merge(Worker(id=worker, devices=devices, kind=kind, seen_at=at))
        session.execute(delete(Worker).where(Worker.seen_at < at - FORGOTTEN))


def remove(db: Database, worker: str) -> None:
    """Records that this worker has stopped."""
    with db.write() as session:
        session.execute(delete(Worker).where(Worker.id == worker))


def lacking(session: Session, jobs: Sequence[Job], *, at: datetime) -> dict[str, str]:
    """What no worker alive has, for those of the waiting jobs that need it; by id, in one query."""
    present = Worker.seen_at > at - PRESENT
    most, count = session.execute(select(func.max(Worker.devices), func.count()).where(present)).one()

    return {job.id: _no_worker(job.devices, most, count) for job in jobs if job.devices > (most or 0)}


def _no_worker(devices: int, most: int | None, count: int) -> str:
    needed = "a worker" if devices == 1 else f"a worker with {devices} devices"
    if not count:
        return f"{needed}: no worker is alive now; start one with `permafrost worker`"
    others = "the only worker alive has" if count == 1 else f"the largest of {count} workers has"
    return f"{needed}: {others} {most}"
