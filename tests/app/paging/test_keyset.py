"""Keyset pages: every row once, in order, whatever is inserted, and deleted rows still work as cursors."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit.tables import AuditLog
from app.db import Database
from app.errors import InvalidRequest
from app.paging.keyset import Order, keyset
from app.paging.tombstones import remove

START = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING = select(AuditLog)


def add(session: Session, row_id: str, second: int) -> AuditLog:
    row = AuditLog(id=row_id, created_at=START + timedelta(seconds=second), action="a", project="mine", role="admin")
    session.add(row)
    session.flush()
    return row


def pages(session: Session, limit: int, order: Order) -> list[list[str]]:
    found, after, more = [], None, True
    while more:
        rows, more = keyset(session, EVERYTHING, AuditLog, after=after, limit=limit, order=order)
        found.append([row.id for row in rows])
        after = rows[-1].id if rows else None
    return found


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5), st.sampled_from(["asc", "desc"]))
def test_every_row_is_on_one_page(seconds: list[int], limit: int, order: Order) -> None:
    """Rows of the same time are ordered by id; only the last page is shorter than the limit."""
    db = Database("sqlite://")
    AuditLog.metadata.create_all(db.engine, [AuditLog.__table__])  # type: ignore[list-item]
    with db.write() as session:
        for number, second in enumerate(seconds):
            add(session, f"row-{number:02}", second)
        found = pages(session, limit, order)
    expected = [f"row-{n:02}" for _, n in sorted((second, n) for n, second in enumerate(seconds))]
    assert [row_id for page in found for row_id in page] == (expected if order == "asc" else expected[::-1])
    assert all(len(page) == limit for page in found[:-1])
    db.close()


def test_an_unknown_cursor_is_refused(db: Database) -> None:
    """By name, instead of a page that begins anywhere."""
    with db.write() as session, pytest.raises(InvalidRequest, match="no object 'row-9'") as refused:
        keyset(session, EVERYTHING, AuditLog, after="row-9", limit=1, order="asc")
    assert (refused.value.param, refused.value.code) == ("after", "invalid_cursor")


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_deleted_row_is_a_cursor_of_its_project(db: Database, order: Order) -> None:
    """A client that deletes each page before it asks for the next one gets every row; other projects' do not count."""
    with db.write() as session:
        for number in range(4):
            add(session, f"row-{number}", 0)
        [first], _ = keyset(session, EVERYTHING, AuditLog, after=None, limit=1, order=order)
        remove(session, first)
        session.flush()
        options = {"after": first.id, "limit": 9, "order": order}
        rest, more = keyset(session, EVERYTHING, AuditLog, tombstones_of="mine", **options)  # type: ignore[arg-type]
        assert ({row.id for row in rest} | {first.id}, more) == ({f"row-{n}" for n in range(4)}, False)
        with pytest.raises(InvalidRequest):
            keyset(session, EVERYTHING, AuditLog, tombstones_of="other", **options)  # type: ignore[arg-type]
