"""Exports in the database: due at the job's end, leased, tried again, given up."""

from datetime import timedelta
from typing import Literal

from sqlalchemy import update

from app.db import Database, now
from app.exports import queue
from app.exports.queue import DueExport
from app.exports.tables import Export
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from tests.app.jobs.jobs import new_job

STORE, TRACKER = "s3://bucket/prefix", "mlflow://track.example.org/a"


def job_with(db: Database, *destinations: str) -> str:
    job, _ = lifecycle.submit(db, new_job(), destinations=destinations)
    return job.id


def end(db: Database, status: Literal["succeeded", "failed"]) -> None:
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    lifecycle.finish(db, lease, Outcome(status, error={"code": "x", "message": "x"} if status == "failed" else None))


def states(db: Database, job_id: str) -> dict[str, str]:
    with db.read() as session:
        return {row.destination: row.status for row in queue.of_job(session, job_id)}


def complete(db: Database, due: DueExport, *, error: str | None = None, final: bool = False) -> str | None:
    with db.write() as session:
        row = queue.complete(session, due, receipt=None if error else {"url": "x"}, error=error, final=final)
        return row.status if row else None


def make_due(db: Database) -> None:
    with db.write() as session:
        session.execute(update(Export).values(due_at=now(session) - timedelta(seconds=1)))


def test_what_waits_for_the_end_of_a_job(db: Database):
    """Nothing is due before it; a job without a result has its curves and verdict tracked, and nothing else sent."""
    done, failed, cancelled = (job_with(db, STORE, TRACKER) for _ in range(3))
    assert queue.take_due(db) is None
    end(db, "succeeded")
    assert states(db, done) == {STORE: "pending", TRACKER: "pending"}
    end(db, "failed")
    assert states(db, failed) == {STORE: "dropped", TRACKER: "pending"}
    lifecycle.cancel(db, "default", cancelled)
    assert states(db, cancelled) == {STORE: "dropped", TRACKER: "dropped"}


def test_an_export_belongs_to_one_exporter(db: Database):
    """Until its lease is over; what the first one then reports counts for nothing."""
    job = job_with(db, STORE)
    end(db, "succeeded")
    first = queue.take_due(db)
    assert first is not None and queue.take_due(db) is None and queue.extend(db, first)
    with db.write() as session:
        session.execute(update(Export).values(lease_until=now(session) - timedelta(seconds=1)))
    second = queue.take_due(db)
    assert second is not None and second.attempt == 2
    assert not queue.extend(db, first) and complete(db, first) is None
    assert complete(db, second) == "delivered" and states(db, job) == {STORE: "delivered"}
    assert queue.take_due(db) is None


def test_a_destination_that_is_away_gets_it_later(db: Database):
    """Each attempt is in the log; one that refuses, and the last attempt, are the end."""
    job = job_with(db, STORE)
    end(db, "succeeded")
    for attempt in range(1, len(queue.SCHEDULE) + 2):
        due = queue.take_due(db)
        assert due is not None and due.attempt == attempt
        last = attempt > len(queue.SCHEDULE)
        assert complete(db, due, error="away") == ("failed" if last else "pending")
        assert queue.take_due(db) is None, "not before its pause is over"
        make_due(db)
    with db.read() as session:
        (row,) = queue.of_job(session, job)
    assert [entry["attempt"] for entry in row.log] == list(range(1, len(queue.SCHEDULE) + 2))
    assert sum(queue.SCHEDULE[:6]) > 3_600, "a server that is down for an hour is no reason to give up"
    other = job_with(db, STORE)
    end(db, "succeeded")
    due = queue.take_due(db)
    assert due is not None and complete(db, due, error="refused", final=True) == "failed"
    assert states(db, other) == {STORE: "failed"}
