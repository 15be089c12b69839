"""Tombstones keep the sort key of a deleted row for a day, and are deleted with later rows of the project."""

from datetime import timedelta

from sqlalchemy import select, update

from app.audit.tables import AuditLog
from app.db import Database, now
from app.paging.tables import Tombstone
from app.paging.tombstones import find_tombstone, remove
from tests.app.paging.test_keyset import add


def test_the_sort_key_of_a_deleted_row_is_kept(db: Database) -> None:
    """The row is gone; its id and time are found, for its project only."""
    with db.write() as session:
        row = add(session, "row-1", 7)
        remove(session, row)
    with db.read() as session:
        assert session.get(AuditLog, "row-1") is None
        kept = find_tombstone(session, "mine", "row-1")
        assert kept is not None and kept.created_at == row.created_at
        assert find_tombstone(session, "other", "row-1") is None


def test_old_sort_keys_are_deleted(db: Database) -> None:
    """After a day, by the next removal in the same project."""
    with db.write() as session:
        remove(session, add(session, "row-1", 1))
        remove(session, add(session, "row-2", 2))
    with db.write() as session:
        outdated = now(session) - timedelta(days=1, seconds=1)
        session.execute(update(Tombstone).where(Tombstone.id == "row-1").values(deleted_at=outdated))
        remove(session, add(session, "row-3", 3))
    with db.read() as session:
        assert set(session.scalars(select(Tombstone.id))) == {"row-2", "row-3"}
