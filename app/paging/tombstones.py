"""Deletes rows and keeps their sort keys for a day, so that a list can be emptied while it is read page by page."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db import now
from app.paging.tables import Tombstone

#: How long the id of a deleted object works as a cursor.
_KEPT: Final = timedelta(days=1)


class Listed(Protocol):
    """A row of a list that is sorted by creation time."""

    id: str
    project: str
    created_at: datetime


def remove(session: Session, row: Listed) -> None:
    """Deletes the row, keeps its sort key, and deletes the project's sort keys that are older than a day."""
    at = now(session)
    session.execute(delete(Tombstone).where(Tombstone.project == row.project, Tombstone.deleted_at < at - _KEPT))
    session.add(Tombstone(id=row.id, project=row.project, created_at=row.created_at, deleted_at=at))
    session.delete(row)


def find_tombstone(session: Session, project: str, object_id: str) -> Tombstone | None:
    """The sort key of a deleted object of this project."""
    return session.scalar(select(Tombstone).where(Tombstone.id == object_id, Tombstone.project == project))
