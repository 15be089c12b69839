"""Positions in the queue, and when a waiting job will start."""

from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from app.db import Database, now
from app.jobs import views
from app.jobs.listing import Filters, page
from app.jobs.queue import lifecycle, waiting, workers
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.tables import Job
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim, new_job


def test_the_queue_is_told_by_priority_and_age(api: TestClient, create: Create, db: Database) -> None:
    """Higher priority first, then older; a running job has no place."""
    older, newer, first = create(), create(), create(priority=5)

    def places() -> list[int | None]:
        return [api.get(f"fine_tuning/jobs/{job['id']}").json()["queue_position"] for job in (older, newer, first)]

    assert places() == [2, 3, 1]
    claim(db)
    assert places() == [1, 2, None]


def test_places_are_counted_so_far_and_no_further(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of any length costs a poll what a queue of a thousand does."""
    monkeypatch.setattr(waiting, "COUNTED", 2)
    for n in range(5):
        lifecycle.submit(db, new_job(id=f"ftjob-{n}"))
    with db.read() as session:
        found, _ = page(session, "default", Filters(), after=None, limit=10, order="asc")
        assert [job.queue_position for job in views.job_objects(session, found)] == [1, 2, 3, 3, 3]
        assert [views.job_objects(session, [job])[0].queue_position for job in found] == [1, 2, 3, 3, 3]


def test_a_waiting_job_is_told_when_it_will_start(db: Database) -> None:
    """From what the running jobs say is left of them, then from how long this project's jobs took."""
    workers.register(db, "w", devices=1, kind="cpu")
    ended, _ = lifecycle.submit(db, new_job(id="ftjob-ended"))
    lease = lifecycle.claim(db, worker="w", seconds=60)
    assert lease is not None
    lifecycle.finish(db, lease, Outcome("succeeded"))
    with db.write() as session:
        row = session.get_one(Job, ended.id)
        assert row.started_at is not None
        row.finished_at = row.started_at + timedelta(seconds=100)
    for n in range(3):
        lifecycle.submit(db, new_job(id=f"ftjob-{n}"))

    def starts() -> list[int | None]:
        with db.read() as session:
            found, _ = page(session, "default", Filters(statuses=["queued"]), after=None, limit=9, order="asc")
            at = now(session).timestamp()
            told = [job.estimated_start for job in views.job_objects(session, found)]
        return [None if each is None else round((each - at) / 10) * 10 for each in told]

    assert starts() == [None, None, None]  # nothing runs, so nobody knows whether anything will
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    assert starts() == [100, 200]
    lifecycle.beat(db, lease, AttemptUpdates(progress={"step": 1, "eta_seconds": 40}))
    assert starts() == [40, 140]
