"""A job with a log, for the tests of logs."""

import pytest
from fastapi import FastAPI

from app.db import Database
from app.jobs.queue import lifecycle
from app.logs import queries
from tests.app.jobs.jobs import new_job


@pytest.fixture
def db(application: FastAPI) -> Database:
    made: Database = application.state.backends.database
    return made


@pytest.fixture
def job(db: Database) -> str:
    """A job whose first attempt printed five lines and whose second printed two."""
    made, _ = lifecycle.submit(db, new_job())
    with db.write() as session:
        queries.append(session, made.id, 1, [f"line {n}" for n in range(1, 4)])
        queries.append(session, made.id, 1, ["line 4", "line 5"])
        queries.append(session, made.id, 2, ["again 6", "again 7"])
    return made.id
