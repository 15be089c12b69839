"""The recipe of a job: what the supervisor saw holds whatever the trainer says."""

import base64
import hashlib
import json
from typing import Any

import pytest

from app.evidence.format.recipe import Recipe, Reported
from app.evidence.format.recipe_reading import read
from app.evidence.format.strict import read_json
from app.evidence.tables import Evidence
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import CSV, HEADER, job_of, submit
from worker.supervisor.recipes import WORD_BYTES, word_of
from worker.supervisor.runner import Runner


def recipe_of(deployment: Deployment, job_id: str) -> Recipe:
    with deployment.db.read() as session:
        envelope: Any = json.loads(session.get_one(Evidence, job_id).envelope or b"")
    return read(read_json(base64.b64decode(envelope["recipe"]["payload"])))


def test_what_was_handed_over(deployment: Deployment, runner: Runner) -> None:
    """Digests of the data and of the base, the request, and the checkpoint that could be read: one of the two."""
    job_id = submit(deployment, seed=stub_trainer.HONEST)
    runner.run_next()
    recipe, job = recipe_of(deployment, job_id), job_of(deployment.db, job_id)
    assert (recipe.observed.training.sha256, recipe.observed.training.size) == (
        hashlib.sha256(HEADER + CSV).hexdigest(),
        len(HEADER + CSV),
    )
    assert recipe.request.hyperparameters == {"n_epochs": 2}
    assert recipe.request.policy == job.policy.to_json()
    assert recipe.observed.base_origin == {"model": f"init:{job_id}", "kind": "initial", "job": job_id}
    assert recipe.reported == Reported()  # a trainer of an earlier version says nothing


def test_attempts_are_counted(deployment: Deployment, runner: Runner) -> None:
    """A trainer that crashed once: the second attempt's recipe says so."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
    runner.run_next()
    with deployment.db.write() as session:
        session.query(type(job_of(deployment.db, job_id))).update({"not_before": None})
    runner.run_next()
    recipe = recipe_of(deployment, job_id)
    assert (recipe.attempt, recipe.observed.crashes) == (2, 1)


@pytest.mark.parametrize(
    "said",
    [
        None,
        "ready",
        {"steps": -1},
        {"loss": float("nan"), "steps": "x"},
        {"environment": {"x": "y" * WORD_BYTES}},
    ],
)
def test_a_word_that_cannot_be_read_is_left_out(said: Any) -> None:
    """Of another type, or longer than a recipe should be."""
    assert word_of({"recipe": said}) == Reported()
    assert word_of(None) == Reported()
