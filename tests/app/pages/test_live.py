"""Messages to open pages: that what they show has changed."""

import threading
from collections.abc import Iterator

import httpx2
import pytest
from fastapi import FastAPI

from app.db import Database
from app.jobs.queue import lifecycle
from tests.app.jobs.jobs import claim, finish, new_job
from tests.patience import PATIENCE


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def messages(url: str, ready: threading.Event | None = None) -> Iterator[str]:
    with httpx2.stream("GET", url, timeout=PATIENCE) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if ready:
                ready.set()
            if line and not line.startswith(":"):
                yield line


def test_a_page_hears_of_its_job_to_the_end(socket_url: str, db: Database) -> None:
    """Each change is a message; the last says that there will be no more, and the stream ends."""
    job, _ = lifecycle.submit(db, new_job())
    heard = messages(f"{socket_url}/jobs/{job.id}/changes")
    assert next(heard) == f"data: {job.version}"  # the page may be older than this
    lease = claim(db)
    assert next(heard).startswith("data: ")
    finish(db, lease)
    assert "event: ended" in list(heard)


def test_an_unknown_job_has_no_stream(socket_url: str) -> None:
    """404 before anything is sent."""
    assert httpx2.get(f"{socket_url}/jobs/ftjob-none/changes").status_code == 404


def test_a_dashboard_hears_of_new_jobs(socket_url: str, db: Database) -> None:
    """And of those that get further."""
    ready = threading.Event()

    def work() -> None:
        ready.wait(PATIENCE)
        lifecycle.submit(db, new_job())

    thread = threading.Thread(target=work)
    thread.start()
    assert next(messages(f"{socket_url}/changes", ready)) == "data: changed"
    thread.join()
