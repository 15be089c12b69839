"""Early stopping: when it ends a run, what the result then is, and that a second attempt remembers it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.trainer.attempts import Attempt, affine_order, attempt
from worker.protocol import Workspace
from worker.trainer.training.patience import Patience

# Steps far too long: the loss falls, then grows without end.
WILD = {
    "n_epochs": 30,
    "batch_size": 8,
    "learning_rate": 0.4,
    "optimizer": {"name": "sgd", "momentum": 0.95},
    "max_grad_norm": 0,
    "validation_fraction": 0.2,
    "eval_steps": 2,
    "early_stopping_patience": 3,
    "keep_checkpoints": 1,
}


def stopped(root: Path, **changes: Any) -> Attempt:
    return attempt(affine_order(root, hyperparameters=WILD | changes, policy={"freeze": ["bias"]}), root)


def test_result_is_the_best_state(tmp_path: Path) -> None:
    """Three evaluations without a lower loss end the run; weights and metrics are those of the lowest one."""
    done = stopped(tmp_path)
    losses = {each["step"]: each["metrics"]["loss"] for each in done.of("evaluation")}
    best = min(losses, key=losses.__getitem__)
    assert done.code == 0
    assert done.of("done")[0]["steps"] == best + 6 == max(losses)
    word = done.of("done")[0]["recipe"]
    assert (word["steps"], word["resultStep"]) == (best + 6, best)
    assert done.of("done")[0]["metrics"]["loss"] == losses[best]
    kept = load_file(done.place.checkpoints / f"step-{best:08d}" / "model.safetensors")
    assert torch.equal(done.changed["weight"], kept["weight"])
    assert any(f"state after step {best}" in each["message"] for each in done.of("event"))
    assert done.observed["bias"]["loaded"] == done.observed["bias"]["trained"]


def test_second_attempt_remembers(tmp_path: Path) -> None:
    """From a checkpoint after the best evaluation: the same end and the same bits."""
    whole = stopped(tmp_path / "whole", keep_checkpoints=100, checkpoint_steps=1)
    best = json.loads((max(whole.place.checkpoints.iterdir()) / "state.json").read_text())["patience"]["step"]
    resumed = Workspace(tmp_path / "resumed").create()
    for path in sorted(whole.place.checkpoints.iterdir()):
        if int(path.name.removeprefix("step-")) <= best + 3:
            shutil.copytree(path, resumed.checkpoints / path.name)
    done = stopped(resumed.root, keep_checkpoints=100, checkpoint_steps=1)
    assert any(f"goes on after step {best + 3}" in each["message"] for each in done.of("event"))
    assert done.of("done")[0]["steps"] == whole.of("done")[0]["steps"]
    assert torch.equal(done.changed["weight"], whole.changed["weight"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hyperparameters": {"early_stopping_patience": 1}}, "validation_file"),
        (
            {
                "hyperparameters": {"early_stopping_patience": 1, "validation_fraction": 0.2},
                "policy": {
                    "rules": [
                        {
                            "id": "late",
                            "action": "freeze",
                            "select": {"name": "weight"},
                            "when": [{"from_step": 2, "to_step": 4}],
                        }
                    ]
                },
            },
            "scheduled freeze",
        ),
    ],
    ids=["nothing to judge by", "a schedule"],
)
def test_what_it_cannot_go_with_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """Without validation data, or with freezes that begin on the way."""
    done = attempt(affine_order(tmp_path, **changes), tmp_path)
    assert done.failure["param"] == "hyperparameters.early_stopping_patience"
    assert says in done.failure["message"]


def test_equal_loss_is_no_progress() -> None:
    """Nor is a loss that is not a number."""
    patience = Patience(2)
    assert patience.take(1, {"loss": 1.0})
    assert not patience.take(2, {"loss": 1.0})
    assert not patience.take(3, {"loss": float("nan")})
    assert patience.over
    assert not Patience(None).take(1, {"loss": 1.0})
