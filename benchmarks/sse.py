"""1,000 watchers of one job's events: how often they make the service ask its PostgreSQL, beside one watcher.

The server itself counts them, as committed and rolled back transactions: each read of a watcher is one.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from app.jobs.queue.event_log import NewEvent
from benchmarks.deployed import Place, place, postgres, running
from benchmarks.figure import Figure

WATCHERS = (1, 100, 1_000)
SECONDS = 8.0
EVENTS = 20


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as name:
        folder = Path(name)
        with postgres(folder / "postgres") as server, place(server, "permafrost", folder) as ours:
            rates = {count: rate_of(ours, count) for count in WATCHERS}
    alone = rates[1][0]
    for count, (rate, fewest, most) in rates.items():
        beside = f"{alone:.1f} 1/s with 1 watcher" if count > 1 else None
        yield Figure(f"reads of the database, {count:,} watchers", rate, "1/s", beside)
        if count > 1:
            yield Figure(f"reads, {count:,} watchers over one", rate / alone, "x", "1: constant")
        yield Figure(f"events that each of {count:,} got", f"{fewest} to {most}", "", f"{EVENTS} and those of the job")


def rate_of(ours: Place, count: int) -> tuple[float, int, int]:
    """Reads a second while `count` watch a job that tells something all the time; and the events that they got."""
    job_id, lease = running(ours)
    url = f"{ours.service.url}/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    with watchers(url, count, ours.headers) as process:
        before, began = reads(ours), time.perf_counter()
        for number in range(EVENTS):
            lifecycle.beat(ours.database, lease, AttemptUpdates(events=[NewEvent(f"event {number}")]))
            time.sleep(SECONDS / EVENTS)
        rate = (reads(ours) - before - EVENTS) / (time.perf_counter() - began)
        lifecycle.cancel(ours.database, "default", job_id)
        got = status_of(process)
    return rate, got["fewest"], got["most"]


@contextmanager
def watchers(url: str, count: int, headers: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`count` readers, all of them connected."""
    command = [sys.executable, "-m", "benchmarks.watchers", url]
    command += ["--connections", str(count), "--headers", json.dumps(headers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert status_of(process) == {"connected": count}
            yield process
        finally:
            process.terminate()


def status_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the watchers ended without a word")
    found: dict[str, Any] = json.loads(line)
    return found


def reads(ours: Place) -> int:
    """Transactions that the server has counted for this database. Its sessions report once a second."""
    time.sleep(1.5)
    with psycopg.connect(ours.url, autocommit=True) as connection:
        row = connection.execute(_COUNT).fetchone()
    assert row is not None
    return int(row[0])


_COUNT = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
