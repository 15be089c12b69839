"""The picture of what became of a job's tensors, on the pages of the job and of its result."""

from html import unescape

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from tests.app.jobs.jobs import claim, finish, new_job, result


def test_a_job_and_its_result_show_one_map(client: TestClient, embedded: FastAPI) -> None:
    """With the key to its colours; a job that waits has none."""
    db: Database = embedded.state.backends.database
    lifecycle.submit(db, new_job(id="ftjob-a"))
    assert 'class="map"' not in client.get("http://testserver/jobs/ftjob-a").text
    made = result("ftjob-a")
    finish(db, claim(db), model=made)
    for path in ("jobs/ftjob-a", f"models/{made.id}"):
        page = unescape(client.get(f"http://testserver/{path}").text)
        assert 'aria-label="Freeze map: 2 tensors' in page and "frozen, the base's bytes" in page
