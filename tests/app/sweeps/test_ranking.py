"""How jobs are ranked: by the last evaluation, those with a result before those without."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from tests.app.conftest import AFFINE
from tests.app.jobs.jobs import claim, finish
from tests.app.sweeps.sweeps import evaluate, run

Post = Callable[..., Any]


@pytest.fixture
def db(application: FastAPI) -> Database:
    made: Database = application.state.backends.database
    return made


def ranking(api: TestClient, sweep: Any) -> list[Any]:
    found: list[Any] = api.get(f"fine_tuning/sweeps/{sweep['id']}").json()["ranking"]
    return found


def test_the_last_evaluation_counts(api: TestClient, post: Post, db: Database) -> None:
    """Not the best one on the way: the result has the weights of the last step."""
    sweep = post(grid={"seed": [1, 2]})
    lease = claim(db)
    for step, loss in ((1, 0.1), (2, 0.7)):
        evaluate(db, lease, step, loss)
    first = ranking(api, sweep)[0]
    assert (first["job_id"], first["value"], first["step"], first["rank"]) == (lease.job_id, 0.7, 2, 1)


def test_a_job_without_a_result_has_no_rank(api: TestClient, post: Post, db: Database) -> None:
    """Its last value is shown, below those that have one; a job without any value is last."""
    sweep = post()
    lost = claim(db)
    evaluate(db, lost, 1, 0.01)
    lifecycle.cancel(db, "default", lost.job_id)
    good = run(db, 0.5)
    rows = ranking(api, sweep)
    assert [(row["rank"], row["value"]) for row in rows] == [(1, 0.5), (None, 0.01), (None, None)]
    assert [rows[0]["job_id"], rows[1]["job_id"]] == [good, lost.job_id]


def test_equal_jobs_are_in_the_order_of_the_request(api: TestClient, post: Post, db: Database) -> None:
    """So that a ranking does not change from one read to the next."""
    sweep = post()
    for _ in range(3):
        run(db, 0.5)
    order = [row["job_id"] for row in sweep["ranking"]]
    assert [row["job_id"] for row in ranking(api, sweep)] == order


def test_a_value_that_is_no_number_is_no_value(api: TestClient, post: Post, db: Database) -> None:
    """As after a loss that was not finite."""
    sweep = post()
    evaluate(db, claim(db), 1, None)
    assert {row["rank"] for row in ranking(api, sweep)} == {None}


def test_the_training_loss_is_a_mean_of_the_last_steps(api: TestClient, post: Post, db: Database, file: str) -> None:
    """That of one batch says little."""
    sweep = post(job={"model": AFFINE, "training_file": file}, grid={"seed": [1]})
    lease = claim(db)
    points = [(step, "train", {"loss": 100.0 if step <= 20 else float(step)}) for step in range(1, 41)]
    lifecycle.beat(db, lease, AttemptUpdates(metrics=points))
    finish(db, lease)
    assert ranking(api, sweep)[0]["value"] == sum(range(21, 41)) / 20
