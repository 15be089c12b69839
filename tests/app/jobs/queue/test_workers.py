"""Workers that are alive, and what a waiting job waits for."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.db import Database, now
from app.jobs import views
from app.jobs.queue import lifecycle, workers
from app.jobs.queue.tables import Job, Worker
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim, new_job


def waiting_for(db: Database, job_id: str) -> str | None:
    with db.read() as session:
        return views.read(session, "default", job_id)[0].waiting_for


@pytest.mark.parametrize(("devices", "needed"), [(1, "a worker"), (3, "a worker with 3 devices")])
def test_a_job_says_that_no_worker_is_alive(db: Database, devices: int, needed: str) -> None:
    """Before the first one starts, after the last one stopped, and when the last one is not heard of any more."""
    job, _ = lifecycle.submit(db, new_job(devices=devices))
    none_alive = f"{needed}: no worker is alive now; start one with `permafrost worker`"
    assert waiting_for(db, job.id) == none_alive

    workers.register(db, "w1", devices=4, kind="cpu")
    assert waiting_for(db, job.id) is None
    workers.remove(db, "w1")
    assert waiting_for(db, job.id) == none_alive

    workers.register(db, "w1", devices=4, kind="cpu")
    with db.write() as session:
        session.execute(update(Worker).values(seen_at=now(session) - workers.PRESENT - timedelta(seconds=1)))
    assert waiting_for(db, job.id) == none_alive


def test_a_job_that_is_larger_than_every_worker_says_so(db: Database) -> None:
    """With the size of the largest one; a smaller job waits for nothing but its turn."""
    large, _ = lifecycle.submit(db, new_job(devices=8))
    small, _ = lifecycle.submit(db, new_job())
    workers.register(db, "w1", devices=2, kind="cpu")
    assert waiting_for(db, large.id) == "a worker with 8 devices: the only worker alive has 2"
    assert waiting_for(db, small.id) is None
    workers.register(db, "w2", devices=4, kind="cpu")
    assert waiting_for(db, large.id) == "a worker with 8 devices: the largest of 2 workers has 4"


def test_a_job_says_that_it_pauses_after_a_crash(db: Database) -> None:
    """Until when; the reason is gone once that time is over."""
    workers.register(db, "w1", devices=1, kind="cpu")
    job, _ = lifecycle.submit(db, new_job())
    lifecycle.crash(db, claim(db), "killed", limit=3)
    with db.read() as session:
        until = session.get_one(Job, job.id).not_before
    assert until is not None
    assert waiting_for(db, job.id) == f"the end of a pause after a crash, at {until:%Y-%m-%dT%H:%M:%SZ}"

    with db.write() as session:
        session.execute(update(Job).values(not_before=now(session) - timedelta(seconds=1)))
    assert waiting_for(db, job.id) is None


def test_an_etag_moves_with_what_a_job_waits_for(api: TestClient, create: Create, db: Database) -> None:
    """The row of the job stays as it is when the last worker goes away, and a poller has to learn of it."""
    path = f"fine_tuning/jobs/{create()['id']}"
    workers.register(db, "w1", devices=1, kind="cpu")
    alive = api.get(path)
    workers.remove(db, "w1")
    gone = api.get(path, headers={"if-none-match": alive.headers["etag"]})
    assert (alive.json()["waiting_for"], gone.status_code) == (None, 200)
    assert "no worker is alive" in gone.json()["waiting_for"]
    assert api.get(path, headers={"if-none-match": gone.headers["etag"]}).status_code == 304


def test_a_job_waits_for_a_kind_of_device(db: Database) -> None:
    """Its answer says which kinds there are, or how many devices of that kind the largest worker has."""
    one, _ = lifecycle.submit(db, new_job(device="H100"))
    two, _ = lifecycle.submit(db, new_job(device="H100", devices=2))
    workers.register(db, "w1", devices=1, kind="cuda", products={"NVIDIA A10": 1})
    assert waiting_for(db, one.id) == "a worker with a device H100: the workers alive have NVIDIA A10"

    workers.register(db, "w2", devices=1, kind="cuda", products={"NVIDIA H100 PCIe": 1})
    assert waiting_for(db, one.id) is None
    assert waiting_for(db, two.id) == "a worker with 2 devices H100: the largest of 2 workers has 1"
