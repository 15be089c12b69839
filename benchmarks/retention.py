"""Retention on PostgreSQL: what deleting old events takes, and what an append to a running job's events sees of it.

Jobs of 100 events each, all but a tenth of them old. Half of the old ones are deleted by the service's batches, the
other half by one DELETE, as a cron job would: the peer. Meanwhile a running job appends an event as fast as it can, and
before that alone. BENCH_EVENTS (10,000,000) is their number.
"""

import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.ops.retention.rows import EVENTS, delete_batch
from benchmarks.deployed import postgres
from benchmarks.figure import Figure
from migrations.upgrade import upgrade

EVENTS_IN_ALL: Final = int(os.environ.get("BENCH_EVENTS", "10000000"))
PER_JOB: Final = 100
JOBS: Final = EVENTS_IN_ALL // PER_JOB
ALONE_SECONDS: Final = 5.0
#: When jobs ended: the first half of the old ones, the second, and those that are kept.
OLDEST, OLD, KEPT = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3, 6))


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as folder, postgres(Path(folder)) as url:
        upgrade(url)
        database = Database(url)
        try:
            lease = running_job(database)
            fill(url)
            yield from measured(database, url, lease)
        finally:
            database.close()


def measured(database: Database, url: str, lease: Lease) -> Iterable[Figure]:
    with appending(database, lease) as alone:
        time.sleep(ALONE_SECONDS)
    batches = Batches(database)
    with appending(database, lease) as beside:
        batches.run(OLDEST + timedelta(days=30))
    with appending(database, lease) as peer:
        seconds, rows = at_once(url, OLD + timedelta(days=30))

    yield Figure("events in all", JOBS * PER_JOB, "")
    yield Figure("deleted by batches", batches.rows, "", f"{rows:,} by one statement")
    speed = batches.rows / batches.seconds
    yield Figure("deleted a second by batches, with pauses as long", speed, "1/s", f"{rows / seconds:,.0f}")
    yield Figure("longest transaction", 1e3 * max(batches.transactions), "ms", f"{1e3 * seconds:,.0f}")
    for name, milliseconds in (("batches", beside), ("one statement", peer)):
        for quantile, place in (("median", 49), ("p99", 98)):
            ours, before = (statistics.quantiles(each, n=100)[place] for each in (milliseconds, alone))
            yield Figure(f"append of an event beside {name}, {quantile}", ours, "ms", f"{before:.2f} alone")
        yield Figure(f"append of an event beside {name}, longest", max(milliseconds), "ms", f"{max(alone):.2f} alone")


@dataclass
class Batches:
    """What the service's own batches took."""

    database: Database
    rows: int = 0
    seconds: float = 0.0
    transactions: list[float] = field(default_factory=list)

    def run(self, before: datetime) -> None:
        began = time.perf_counter()
        while (deleted := self._timed(before)) is not None:
            self.rows += deleted
            time.sleep(self.transactions[-1])
        self.seconds = time.perf_counter() - began

    def _timed(self, before: datetime) -> int | None:
        began = time.perf_counter()
        with self.database.write() as session:
            deleted = delete_batch(session, EVENTS, before)
        self.transactions.append(time.perf_counter() - began)
        return deleted


def at_once(url: str, before: datetime) -> tuple[float, int]:
    """Seconds and rows of one DELETE."""
    statement = """
        DELETE FROM job_events USING jobs
        WHERE jobs.id = job_events.job_id AND jobs.finished_at < %s AND job_events.seq < jobs.events_count
    """
    began = time.perf_counter()
    with psycopg.connect(url) as connection:
        rows = connection.execute(statement, (before,)).rowcount
    return time.perf_counter() - began, rows


@contextmanager
def appending(database: Database, lease: Lease) -> Iterator[list[float]]:
    """Milliseconds of each event that a running job stores during the block."""
    milliseconds: list[float] = []
    ended = threading.Event()

    def append() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            began = time.perf_counter()
            lifecycle.beat(database, lease, AttemptUpdates(events=[NewEvent(f"event {number}")]))
            milliseconds.append(1e3 * (time.perf_counter() - began))
            time.sleep(0.005)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield milliseconds
    finally:
        ended.set()
        thread.join()


def running_job(database: Database) -> Lease:
    job = Job(id="ftjob-first", project="default", status="queued", model="m", model_spec={}, task="causal-lm")
    job.training_file, job.data, job.seed, job.hyperparameters = "file-1", {}, 0, {}
    job.freeze_policy, job.evidence_options, job.result_files = {}, {}, []
    lifecycle.submit(database, job)
    lease = lifecycle.claim(database, worker="w", seconds=36_000.0)
    assert lease is not None
    return lease


def fill(url: str) -> None:
    """Jobs that have ended, copies of the one that runs, and their events."""
    with psycopg.connect(url) as connection:
        columns = [row[0] for row in connection.execute(_COLUMNS).fetchall()]
        named = ", ".join(f'"{name}"' for name in columns)
        _copy(connection, named, ", ".join(_COPIED.get(name, f'"{name}"') for name in columns))
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")


def _copy(connection: psycopg.Connection, named: str, chosen: str) -> None:
    jobs = f"INSERT INTO jobs ({named}) SELECT {chosen} FROM jobs, generate_series(0, %(jobs)s - 1) AS n"
    given = {"jobs": JOBS, "first": JOBS * 45 // 100, "second": JOBS * 9 // 10, "per_job": PER_JOB}
    connection.execute(jobs, given | {"oldest": OLDEST, "old": OLD, "kept": KEPT})
    connection.execute(_EVENTS, given)


_COLUMNS: Final = """
SELECT column_name FROM information_schema.columns
WHERE table_name = 'jobs' AND table_schema = 'public' AND is_generated = 'NEVER'
"""
_COPIED: Final = {
    "id": "'ftjob-' || lpad(n::text, 10, '0')",
    "status": "'succeeded'",
    "lease_owner": "NULL",
    "lease_until": "NULL",
    "events_count": "%(per_job)s",
    "finished_at": "CASE WHEN n < %(first)s THEN %(oldest)s WHEN n < %(second)s THEN %(old)s ELSE %(kept)s END "
    "+ n * interval '1 second'",
}
_EVENTS: Final = """
INSERT INTO job_events (job_id, seq, id, created_at, level, type, message)
SELECT 'ftjob-' || lpad(n::text, 10, '0'), seq, 'ftevent-' || lpad(n::text, 12, '0') || lpad(seq::text, 12, '0'),
       now(), 'info', 'metrics', 'Step ' || seq || '/100: training loss=0.6931'
FROM generate_series(0, %(jobs)s - 1) AS n, generate_series(1, %(per_job)s) AS seq
"""
