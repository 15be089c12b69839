"""Time and transactions, the same on SQLite and PostgreSQL."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import httpx2
import psycopg
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError, StatementError

from app.db import Database, WriteQueue, is_unavailable, now
from app.jobs.queue.tables import Job
from app.main import create_app
from app.settings import Settings
from migrations.tables import tables
from migrations.upgrade import upgrade
from tests.app.conftest import AFFINE, rows, serve, upload_to
from tests.app.jobs.jobs import new_job
from tests.depth import DEPTH
from tests.patience import PATIENCE


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


def test_writers_take_turns_in_the_order_of_arrival() -> None:
    """None waits for more than those before it, however often others come back."""
    queue, order = WriteQueue(), []

    def write(number: int, came: threading.Event) -> None:
        came.set()
        with queue.turn():
            order.append(number)

    with ThreadPoolExecutor(20) as pool, queue.turn():
        for number in range(20):
            came = threading.Event()
            pool.submit(write, number, came)
            came.wait()
            while len(queue._waiting) <= number:
                time.sleep(0.001)
    assert order == list(range(20))
    with queue.turn():
        pass


def test_a_writer_that_waited_too_long_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database counts as unavailable; those behind it are admitted none the less."""
    monkeypatch.setattr("app.db.QUEUE_SECONDS", 0.05)
    queue = WriteQueue()
    with ThreadPoolExecutor(1) as pool:
        with queue.turn():
            late = pool.submit(lambda: queue.turn().__enter__())
            error = late.exception()
        assert isinstance(error, SQLAlchemyError) and is_unavailable(error)
        with queue.turn():
            pass


def test_a_writer_that_fails_lets_the_next_one_in(db: Database) -> None:
    """Its transaction is rolled back, and its turn ends."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), db.write() as session:
            session.scalar(select(1))
            raise ZeroDivisionError
    with db.write() as session:
        assert session.scalar(select(1)) == 1


def test_writers_of_two_processes_do_not_starve_each_other(tmp_path: Path) -> None:
    """Each process has a queue of its own; here two stand-ins share a SQLite file, with eight writers each."""
    pair = [Database(f"sqlite:///{tmp_path / 'shared.db'}") for _ in range(2)]
    tables().create_all(pair[0].engine)

    def write(number: int) -> None:
        with pair[number % 2].write() as session:
            session.add(new_job(id=f"ftjob-{number}", created_at=now(session), events_count=0))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(write, range(200))) == [None] * 200
    with pair[0].read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 200
    for each in pair:
        each.close()


@pytest.mark.slow
def test_very_many_posts_by_sixteen_clients(tmp_path: Path) -> None:
    """On SQLite behind a real server, every one is a job: 2,000 in `make slow`."""
    count = int(2000 * min(1, DEPTH))
    settings = Settings(data_dir=tmp_path)
    upgrade(settings.database)
    with serve(create_app(settings)) as url, httpx2.Client(base_url=f"{url}/v1/", timeout=PATIENCE) as client:
        file = upload_to(client)(rows(20))

        def post(clients_jobs: range) -> set[int]:
            with httpx2.Client(base_url=f"{url}/v1/", timeout=PATIENCE) as own:
                bodies = [{"model": AFFINE, "training_file": file, "seed": seed} for seed in clients_jobs]
                return {own.post("fine_tuning/jobs", json=body).status_code for body in bodies}

        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(post, [range(start, count, 16) for start in range(16)]))
        assert statuses == [{200}] * 16
        metrics = httpx2.get(f"{url}/metrics", timeout=PATIENCE).text
    assert f'permafrost_jobs{{status="queued"}} {count}.0' in metrics


def test_a_new_file_is_opened_by_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes its first page, SQLite refuses the write-ahead log at once, and does not wait."""
    path, refused, sleep = tmp_path / "new.db", threading.Event(), time.sleep
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE first (page)")
    other.execute("BEGIN IMMEDIATE")

    def pause(seconds: float) -> None:
        refused.set()
        sleep(seconds)

    monkeypatch.setattr("app.db.time.sleep", pause)
    database = Database(f"sqlite:///{path}")
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(lambda: database.engine.connect().close())
        assert refused.wait(PATIENCE)
        other.execute("COMMIT")
        opened.result(PATIENCE)
    other.close()
    database.close()
