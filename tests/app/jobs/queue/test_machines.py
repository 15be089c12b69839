"""Workers as large jobs see them, from the rows of both databases."""

from datetime import timedelta

import pytest

from app.db import Database, now
from app.jobs.queue import lifecycle, workers
from app.jobs.queue.attempt import Outcome
from app.jobs.queue.machines import bound_of, reservation, worker_of
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.tables import Job
from tests.app.jobs.jobs import claim, new_job


@pytest.mark.parametrize(("owner", "worker"), [("host/boot/7/99/12", "host/boot/7/99"), ("w", "w")])
def test_a_claims_name_leads_to_its_worker(owner: str, worker: str) -> None:
    """The last part counts the worker's claims."""
    assert worker_of(owner) == worker


def test_how_long_a_job_may_take(db: Database) -> None:
    """Its own bound; else as long as the longest of the project's last jobs; else nobody knows."""
    ended, _ = lifecycle.submit(db, new_job())
    assert _bound(db, ended) is None
    lifecycle.finish(db, claim(db), Outcome("succeeded"))
    with db.write() as session:
        row = session.get_one(Job, ended.id)
        assert row.started_at is not None
        row.finished_at = row.started_at + timedelta(seconds=70)
    assert _bound(db, lifecycle.submit(db, new_job())[0]) == 70.0
    assert _bound(db, lifecycle.submit(db, new_job(hyperparameters={"max_run_seconds": 5}))[0]) == 5.0


def _bound(db: Database, job: Job) -> float | None:
    with db.read() as session:
        return bound_of(session, job.id, job.project)


def test_what_is_free_and_when(db: Database) -> None:
    """Devices of leases count as in use; a job without a report is bounded by what it may take."""
    workers.register(db, "w", devices=4, kind="cuda", products={"A10": 4})
    lifecycle.submit(db, new_job(devices=3, hyperparameters={"max_run_seconds": 500}))
    assert lifecycle.claim(db, worker="w/1", seconds=60, offer=Offer({"A10": 4}, {"A10": 4}))
    with db.read() as session:
        at = now(session)
        found = reservation(session, at, devices=2, device="a10")
        assert found is not None and (found.machine.name, found.machine.free) == ("w", 1)
        assert found.starts_in == pytest.approx(500, abs=30)
        assert reservation(session, at, devices=1, device=None) is None
        assert reservation(session, at, devices=2, device="H100") is None
        asked = reservation(session, at, devices=2, device=None, asking="x/3", offer=Offer({CPU: 2}, {CPU: 2}))
        assert asked is None
