"""Curves of one job and of several."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from app.pages.overlay import POINTS, of_job
from tests.app.jobs.jobs import claim, new_job
from tests.app.pages.test_routes import read


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def trained(db: Database, name: str, *, steps: int = 3, validated: bool = False) -> None:
    lifecycle.submit(db, new_job(id=name, suffix="same"))
    points = [
        (step, "train", {"loss": 1 / step, "learning_rate": 0.1, "grad_norm": 2.0, "examples_per_second": 9.0})
        for step in range(1, steps + 1)
    ]
    news = AttemptUpdates(metrics=points + ([(steps, "valid", {"loss": 0.5})] if validated else []))
    lifecycle.beat(db, claim(db), news)


def test_what_stands_beside_the_loss(client: TestClient, db: Database) -> None:
    """Learning rate, gradient norm and throughput, each with its axis; a long run in as many points as a screen has."""
    trained(db, "ftjob-long", steps=2 * POINTS, validated=True)
    with db.read() as session:
        charts = of_job(session, "ftjob-long")
    assert list(charts) == ["Loss", "Learning rate", "Gradient norm", "Examples per second"]
    assert [line.label for line in charts["Loss"].lines] == ["training", "validation"]
    assert len(charts["Gradient norm"].lines[0].points) <= POINTS
    assert "Learning rate, gradient norm, examples per second" in read(client, "/jobs/ftjob-long").text


def test_jobs_are_laid_over_each_other(client: TestClient, db: Database) -> None:
    """Each under a name of its own; the validation's loss where all have one; others are offered."""
    for name in ("ftjob-aaaaaa", "ftjob-bbbbbb", "ftjob-cccccc"):
        trained(db, name, validated=name != "ftjob-cccccc")
    both = read(client, "/curves?job=ftjob-aaaaaa&job=ftjob-bbbbbb").text
    assert "Validation loss" in both and "same …aaaaaa 0.5 at step 3" in both and "ftjob-cccccc" in both
    assert "Validation loss" not in read(client, "/curves?job=ftjob-aaaaaa&job=ftjob-cccccc").text
    assert "Jobs" in read(client, "/curves").text


def test_an_unknown_job_is_an_error_page(client: TestClient) -> None:
    """Also among known ones."""
    answer = client.get("http://testserver/curves?job=ftjob-none", headers={"accept": "text/html"})
    assert answer.status_code == 404 and "no fine-tuning job" in answer.text
