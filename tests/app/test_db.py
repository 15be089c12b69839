"""Time and transactions, the same on SQLite and PostgreSQL."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import StatementError

from app.db import Database, now
from app.jobs.queue.tables import Job
from tests.app.jobs.jobs import new_job


def stored(db: Database, at: datetime) -> Job:
    job = new_job(created_at=at, events_count=0)
    with db.write() as session:
        session.add(job)
    return job


def test_times_come_back_aware_and_equal(db: Database):
    """A time in another zone is the same instant, in UTC, to the microsecond."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    job = stored(db, at)
    with db.read() as session:
        back = session.get_one(Job, job.id).created_at
    assert back == at and back.tzinfo is UTC


def test_times_sort_in_the_database(db: Database):
    """Order and comparison by SQL agree with Python's, whole seconds included."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(microseconds=n) for n in (999_999, 0, 1_000_000, 1)]
    for at in times:
        stored(db, at)
    with db.read() as session:
        assert list(session.scalars(select(Job.created_at).order_by(Job.created_at))) == sorted(times)
        assert len(session.scalars(select(Job.id).where(Job.created_at < start + timedelta(seconds=1))).all()) == 3


def test_a_naive_time_is_refused(db: Database):
    """Guessing a zone would be wrong somewhere."""
    with pytest.raises(StatementError, match="time zone"):
        stored(db, datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test


def test_the_databases_clock_moves(db: Database):
    """`now` is the wall clock and not the start of the transaction."""
    with db.write() as session:
        first = now(session)
        second = now(session)
    assert first < second and first.tzinfo is UTC


def test_no_update_is_lost(db: Database):
    """Read-modify-writes from four threads all count: SQLite's writers queue up, PostgreSQL's rows are locked."""
    job = stored(db, datetime.now(UTC))

    def bump() -> None:
        for _ in range(25):
            with db.write() as session:
                row = session.get_one(Job, job.id, with_for_update=True)
                session.execute(update(Job).where(Job.id == row.id).values(attempt=row.attempt + 1))

    threads = [threading.Thread(target=bump) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.read() as session:
        assert session.get_one(Job, job.id).attempt == 100


def test_a_read_opens_no_transaction_on_postgresql(postgres_database: str):
    """BEGIN and ROLLBACK around each poll would double its round trips; each statement has its own snapshot anyway."""
    database = Database(postgres_database)
    with database.read() as session:
        session.execute(select(1))
        connection = session.connection().connection.dbapi_connection
        assert connection is not None
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with database.write() as session:
        session.execute(select(1))
        connection = session.connection().connection.dbapi_connection
        assert connection is not None
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    database.close()


def test_a_snapshot_sees_one_moment(db: Database):
    """What is committed while a snapshot is open is not in it, on either database; a cursor over it can be followed."""
    first = stored(db, datetime(2026, 1, 1, tzinfo=UTC))
    with db.snapshot() as session:
        assert list(session.scalars(select(Job.id).execution_options(yield_per=1))) == [first.id]
        second = stored(db, datetime(2026, 1, 2, tzinfo=UTC))
        assert list(session.scalars(select(Job.id))) == [first.id]
    with db.snapshot() as session:
        assert set(session.scalars(select(Job.id))) == {first.id, second.id}
