"""Sweeps and their jobs in the database: this project's alone."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from app.db import Database
from app.errors import NotFound
from app.sweeps.queries import find_sweep, job_counts, unfinished
from tests.app.sweeps.sweeps import run


def test_counts_follow_the_jobs(post: Callable[..., Any], application: FastAPI) -> None:
    """One query for several sweeps; unfinished until the last job has ended."""
    db: Database = application.state.backends.database
    sweeps = [post(grid={"seed": [1, 2]})["id"], post()["id"]]
    run(db, 0.5)
    with db.read() as session:
        rows = [find_sweep(session, "default", sweep_id) for sweep_id in sweeps]
        assert job_counts(session, rows) == {sweeps[0]: {"queued": 1, "succeeded": 1}, sweeps[1]: {"queued": 3}}
        assert unfinished(session, rows[0])
    run(db, 0.5)
    with db.read() as session:
        assert not unfinished(session, find_sweep(session, "default", sweeps[0]))


def test_another_projects_sweep_is_not_there(post: Callable[..., Any], application: FastAPI) -> None:
    """As one that never was."""
    sweep = post()["id"]
    with application.state.backends.database.read() as session, pytest.raises(NotFound):
        find_sweep(session, "other", sweep)
