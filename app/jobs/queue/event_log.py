"""A job's events as they are written: numbered from 1, without gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.jobs.queue.tables import Event, Job


@dataclass(frozen=True, slots=True)
class Note:
    """An event before it has its number."""

    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None


def append(session: Session, job_id: str, notes: Sequence[Note]) -> None:
    """Appends events. The counter on the job's row is locked by its update, so numbers have no gaps and no doubles."""
    if not notes:
        return
    statement = (
        update(Job)
        .where(Job.id == job_id)
        .values(events_count=Job.events_count + len(notes))
        .returning(Job.events_count)
        .execution_options(synchronize_session=False)
    )
    last = session.execute(statement).scalar_one()
    at = now(session)
    for seq, note in enumerate(notes, start=last - len(notes) + 1):
        event = Event(job_id=job_id, seq=seq, id=new_id("ftevent"), created_at=at, data=note.data)
        event.level, event.type, event.message = note.level, note.type, note.message
        session.add(event)
