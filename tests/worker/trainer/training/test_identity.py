"""Which changes of a job make its checkpoints another run's."""

from pathlib import Path
from typing import Any

import pytest

from tests.worker.trainer.attempts import affine_order
from worker.protocol import Reporter, WorkOrder, Workspace
from worker.trainer.models import loading
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.ranks.group import ALONE
from worker.trainer.training import tasks
from worker.trainer.training.job import resolve_job


def identity_of(order: WorkOrder, root: Path) -> str:
    place = Workspace(root)
    with Reporter(place.reports):
        splits = tasks.read(order, place, task="tabular-regression")
        loaded = loading.load(order.model, place.base, task="tabular-regression", labels=None, seed=order.seed)
        tracked = TrackedModel.of(loaded)
        plan = tracked.plan(order.policy)
        return resolve_job(order, place, tracked, plan, splits, task="tabular-regression", group=ALONE).identity


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (
            {"hyperparameters": {"n_epochs": 2, "checkpoint_steps": 1, "keep_checkpoints": 7, "max_run_seconds": 9}},
            True,
        ),
        ({"hyperparameters": {"n_epochs": 3}}, False),
        ({"seed": 4}, False),
        ({"policy": {"freeze": ["bias"]}}, False),
        ({"job_id": "ftjob-other", "attempt": 2}, True),
        ({"hyperparameters": {"n_epochs": 2, "frozen_dropout": True}}, True),
        ({"hyperparameters": {"n_epochs": 2, "frozen_dropout": False}}, False),
    ],
    ids=["when to save", "epochs", "seed", "policy", "another attempt", "as before", "fixed"],
)
def test_what_belongs_to_it(tmp_path: Path, change: dict[str, Any], same: bool) -> None:
    fields = {"hyperparameters": {"n_epochs": 2}, "policy": {"freeze": ["weight"]}}
    order = WorkOrder.from_json(affine_order(tmp_path).to_json() | fields)
    other = WorkOrder.from_json(order.to_json() | change)
    assert (identity_of(order, tmp_path) == identity_of(other, tmp_path)) is same
