"""A job's events as they are written: numbered from 1, without gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.jobs.queue.tables import Event, Job
from app.jsontypes import JsonDict


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that does not have its number yet."""

    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: JsonDict | None = None


def append(session: Session, job_id: str, events: Sequence[NewEvent], *, at: datetime | None = None) -> None:
    """Numbers and stores events. Updating the counter locks the job's row, so numbers have no gaps or duplicates.

    `at` is their time, where the transaction has asked the database for it already.
    """
    if not events:
        return

    count = (
        update(Job)
        .where(Job.id == job_id)
        .values(events_count=Job.events_count + len(events))
        .returning(Job.events_count)
        .execution_options(synchronize_session=False)
    )
    last = session.execute(count).scalar_one()
    store(session, job_id, events, after=last - len(events), at=at or now(session))


def store(session: Session, job_id: str, events: Sequence[NewEvent], *, after: int, at: datetime) -> None:
    """Stores events behind the one with the number `after`, for a caller who has locked and changed the counter."""
    for seq, event in enumerate(events, start=after + 1):
        row = Event(job_id=job_id, seq=seq, id=new_id("ftevent"), created_at=at, data=event.data)
        row.level, row.type, row.message = event.level, event.type, event.message
        session.add(row)
