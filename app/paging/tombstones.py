"""A list that is emptied while it is read: the cursor of its next page has been deleted, and still says where."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db import now
from app.paging.tables import Departed

#: How long a deleted object serves as a cursor.
_KEPT: Final = timedelta(days=1)


class Leaving(Protocol):
    id: str
    project: str
    created_at: datetime


def remove(session: Session, row: Leaving) -> None:
    """Deletes the row and notes its place; places that nobody can be reading at any more go with it."""
    at = now(session)
    session.execute(delete(Departed).where(Departed.project == row.project, Departed.left_at < at - _KEPT))
    session.add(Departed(id=row.id, project=row.project, created_at=row.created_at, left_at=at))
    session.delete(row)


def place(session: Session, project: str, object_id: str) -> Departed | None:
    return session.scalar(select(Departed).where(Departed.id == object_id, Departed.project == project))
