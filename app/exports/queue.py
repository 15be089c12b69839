"""Exports in the database: stored with their job, due at its end, taken with a lease, tried again until delivered."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, or_, select, update
from sqlalchemy.orm import Session

from app.db import Database, new_id, now
from app.exports.destinations import parse
from app.exports.tables import Export
from app.jsontypes import JsonDict

#: Seconds between attempts: some quick ones, then up to a day; some two and a half days in all.
SCHEDULE: Final = (10, 60, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800, 57_600, 86_400)
#: Each pause is longer by up to this share.
JITTER: Final = 0.2
LEASE: Final = timedelta(seconds=90)


@dataclass(frozen=True, slots=True)
class DueExport:
    """An export to do now. The attempt is the fencing token."""

    id: str
    project: str
    job_id: str
    destination: str
    attempt: int


def add(session: Session, *, project: str, job_id: str, destination: str, status: str) -> Export:
    """Stores an export, in the caller's transaction; it is due at once where it is "pending"."""
    at = now(session)
    row = Export(id=new_id("export"), project=project, job_id=job_id, created_at=at, due_at=at)
    row.destination, row.status, row.attempt, row.log = destination, status, 0, []
    session.add(row)
    return row


def of_job(session: Session, job_id: str) -> Sequence[Export]:
    """A job's exports, oldest first."""
    mine = select(Export).where(Export.job_id == job_id)
    return session.scalars(mine.order_by(Export.created_at, Export.id)).all()


def release(session: Session, job_id: str, job_status: str) -> None:
    """What waited for the job's end is due now, in the transaction that ends it; without a result it is dropped."""
    waiting = session.scalars(select(Export).where(Export.job_id == job_id, Export.status == "waiting"))
    for row in waiting:
        tracked = job_status == "failed" and parse(row.destination, param="destinations").tracks
        row.status = "pending" if job_status == "succeeded" or tracked else "dropped"
        row.due_at = now(session)


def take_due(db: Database) -> DueExport | None:
    """Takes the export that has been due for longest, with a lease; None when none is due."""
    with db.read() as session:  # a read does not block writers
        if session.scalar(_due(now(session)).limit(1)) is None:
            return None
    with db.write() as session:
        at = now(session)
        row = session.scalar(_due(at).limit(1).with_for_update(skip_locked=True))
        if row is None:
            return None
        row.attempt, row.lease_until = row.attempt + 1, at + LEASE
        return DueExport(row.id, row.project, row.job_id, row.destination, row.attempt)


def extend(db: Database, due: DueExport) -> bool:
    """Extends the lease. False where another exporter has taken over, or the export is gone."""
    with db.write() as session:
        mine = update(Export).where(*_taken_by(due)).values(lease_until=now(session) + LEASE)
        return session.execute(mine.returning(Export.id)).scalar_one_or_none() is not None


def complete(
    session: Session, due: DueExport, *, receipt: JsonDict | None, error: str | None, final: bool
) -> Export | None:
    """Stores how an attempt ended, in the caller's transaction; None where another exporter has taken over.

    Without a receipt it is tried again, unless the error is final or it was the last attempt.
    """
    at = now(session)
    row = session.scalar(select(Export).where(*_taken_by(due)).with_for_update())
    if row is None:
        return None
    row.log = [*row.log, _entry(due, at, error)]
    row.lease_until, row.error = None, error
    if receipt is not None:
        row.status, row.receipt, row.finished_at = "delivered", receipt, at
    elif final or due.attempt > len(SCHEDULE):
        row.status, row.finished_at = "failed", at
    else:
        row.due_at = at + timedelta(seconds=SCHEDULE[due.attempt - 1] * random.uniform(1, 1 + JITTER))
    return row


def _due(at: datetime) -> Select[Export]:
    free = or_(Export.lease_until.is_(None), Export.lease_until <= at)
    due = select(Export).where(Export.status == "pending", Export.due_at <= at, free)
    return due.order_by(Export.due_at, Export.id)


def _taken_by(due: DueExport) -> tuple[Any, ...]:
    return Export.id == due.id, Export.attempt == due.attempt, Export.status == "pending"


def _entry(due: DueExport, at: datetime, error: str | None) -> JsonDict:
    return {"attempt": due.attempt, "created_at": int(at.timestamp()), "error": error}
