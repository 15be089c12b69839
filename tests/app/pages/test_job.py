"""The page of one job; most of it is in test_routes.py."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.logs.queries import append
from tests.app.jobs.jobs import new_job
from tests.app.pages.test_routes import read


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def test_the_log_is_searched(client: TestClient, db: Database) -> None:
    """In any case; the lines with their numbers, and how many there are."""
    lifecycle.submit(db, new_job(id="ftjob-log"))
    with db.write() as session:
        append(session, "ftjob-log", 1, [f"Step {n} <b>" for n in range(300)])
    text = read(client, "/jobs/ftjob-log?log=STEP+29").text
    assert "11 lines with STEP 29" in text and "300 Step 299 <b>" in text and "Step 28 " not in text
    assert "300 lines with <b>, of which the last 200" in read(client, "/jobs/ftjob-log?log=%3Cb%3E").text
    assert "0 lines with none" in read(client, "/jobs/ftjob-log?log=none").text
