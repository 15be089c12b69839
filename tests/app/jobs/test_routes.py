"""Polls of a job over HTTP: ETags, and answers that wait for a change."""

import threading
import time

from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim


def test_an_unchanged_job_is_304(api: TestClient, create: Create, db: Database) -> None:
    """The ETag moves with the row, and with the place in the queue."""
    job = create()
    path = f"fine_tuning/jobs/{job['id']}"
    tag = api.get(path).headers["etag"]
    assert api.get(path, headers={"if-none-match": tag}).status_code == 304
    lifecycle.beat(
        db,
        claim(db),
        AttemptUpdates(
            progress={"step": 1, "total_steps": 2, "eta_seconds": 1000, "estimated_finish": int(time.time()) + 1000}
        ),
    )
    answer = api.get(path, headers={"if-none-match": tag})
    assert (answer.status_code, answer.json()["progress"]["step"]) == (200, 1)
    assert answer.json()["estimated_finish"] > time.time() + 900
    assert answer.headers["retry-after"] == "1"


def test_a_waiting_poll_answers_when_the_job_changes(api: TestClient, create: Create, db: Database) -> None:
    """`Prefer: wait` holds the request; the move of the job ends it long before the time is up."""
    job = create()
    tag = api.get(f"fine_tuning/jobs/{job['id']}").headers["etag"]
    threading.Timer(0.3, lifecycle.cancel, [db, "default", job["id"]]).start()
    started = time.monotonic()
    headers = {"prefer": "respond-async, wait=50", "if-none-match": tag}
    answer = api.get(f"fine_tuning/jobs/{job['id']}", headers=headers)
    assert answer.json()["status"] == "cancelled"
    assert answer.headers["preference-applied"] == "wait=50"
    assert time.monotonic() - started < 40


def test_a_waiting_poll_never_outlasts_its_client(api: TestClient, create: Create) -> None:
    """The SDK tells its timeout; the answer comes five seconds before it at the latest."""
    job = create()
    headers = {"prefer": "wait=50", "x-stainless-read-timeout": "6"}
    answer = api.get(f"fine_tuning/jobs/{job['id']}", headers=headers)
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.json()["status"] == "queued"


# ---- live
