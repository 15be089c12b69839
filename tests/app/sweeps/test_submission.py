"""The rows that a request for a sweep becomes, and the choice of its metric."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.jobs.queue.tables import Job
from app.sweeps.metrics import FALLBACK
from app.sweeps.submission import SPLIT_BY_SEED
from tests.app.conftest import AFFINE, rows, upload_to
from tests.app.sweeps.sweeps import body

Post = Callable[..., Any]


def test_without_validation_the_training_loss_ranks_and_the_sweep_says_so(post: Post, file: str) -> None:
    """`warnings` has the sentence; early stopping and other metrics need validation examples."""
    plain = {"model": AFFINE, "training_file": file}
    sweep = post(job=plain)
    assert sweep["metric"] == {"name": "loss", "split": "train", "goal": "minimize"}
    assert sweep["warnings"] == [FALLBACK]


def test_what_needs_validation_examples_is_refused_without(api: TestClient, file: str) -> None:
    """By the field that needs them."""
    plain = {"model": AFFINE, "training_file": file}
    for more in ({"metric": "mse"}, {"early_stopping": {"type": "median"}}):
        error = api.post("fine_tuning/sweeps", json=body(file, job=plain, **more)).json()["error"]
        assert (error["param"], error["code"]) == (next(iter(more)), "no_validation")


def test_a_validation_file_is_the_same_for_all_seeds(api: TestClient, post: Post, file: str) -> None:
    """A fraction is not, which the sweep says."""
    assert post(grid={"seed": [1, 2]})["warnings"] == [SPLIT_BY_SEED]
    held_out = upload_to(api)(rows(4))
    job = {"model": AFFINE, "training_file": file, "validation_file": held_out}
    sweep = post(job=job, grid={"seed": [1, 2]})
    assert (sweep["warnings"], sweep["validation_file"], sweep["metric"]["split"]) == ([], held_out, "valid")


def test_jobs_without_a_seed_share_one(api: TestClient, post: Post, file: str) -> None:
    """They differ in nothing but what the sweep varies."""
    sweep = post(job={"model": AFFINE, "training_file": file})
    listed = api.get(f"fine_tuning/sweeps/{sweep['id']}/jobs").json()["data"]
    assert len({job["seed"] for job in listed}) == 1


def test_the_rule_is_stored_with_every_job(post: Post, application: FastAPI) -> None:
    """With the metric it compares, so that whatever takes a job's reports can apply it."""
    sweep = post(metric="mse", early_stopping={"type": "median", "min_jobs": 2})
    with application.state.backends.database.read() as session:
        rules = [session.get_one(Job, row["job_id"]).early_stopping for row in sweep["ranking"]]
    assert rules == [{"type": "median", "metric": "mse", "goal": "minimize", "min_jobs": 2, "min_step": 0}] * 3
