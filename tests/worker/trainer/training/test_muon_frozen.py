"""Muon over frozen weights: the mechanisms agree to the bit, frozen rows stay, a freeze drops the momentum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.trainer.attempts import Attempt, attempt
from tests.worker.trainer.training.test_tasks import MLP, order
from worker.protocol import WorkOrder, Workspace

MUON = {"name": "muon", "momentum": 0.9, "weight_decay": 0.1}


def trained(root: Path, policy: dict[str, Any]) -> Attempt:
    fields = order("tabular-regression", root).to_json()
    hyperparameters = fields["hyperparameters"] | {"optimizer": MUON, "n_epochs": 3}
    done = attempt(WorkOrder.from_json(fields | {"hyperparameters": hyperparameters, "policy": policy}), root)
    assert done.code == 0, done.failure
    assert done.observations["violations"] == []
    return done


def test_mechanisms_train_the_rest_to_the_same_bits(tmp_path: Path) -> None:
    """The frozen matrix is the base's; what trains, by Muon or AdamW, is the same for each way to freeze it."""
    ways = ("requires_grad", "detach", "param_group")
    found = [trained(tmp_path / way, {"freeze": ["3.weight"], "mechanism": way}) for way in ways]
    assert all("3.weight" not in done.changed and "0.weight" in done.changed for done in found)
    for name, tensor in found[0].changed.items():
        assert all(torch.equal(tensor, done.changed[name]) for done in found), name


def test_frozen_rows_stay(tmp_path: Path) -> None:
    """The trained rows are a matrix of their own, and no other row moves: not by decay, not by the update."""
    rule = {"action": "freeze", "select": {"name": "3.weight", "rows": [[0, 60]]}}
    done = trained(tmp_path, {"default": "train", "rules": [rule]})
    before, after = done.base["3.weight"], done.changed["3.weight"]
    assert torch.equal(before[:60], after[:60])
    assert not (before[60:] == after[60:]).all(dim=1).any()


def test_freeze_that_begins_later_drops_the_momentum(tmp_path: Path) -> None:
    """From its step on the matrix has the bytes that it had then, as the witness saw; the run ends verified."""
    rule = {"action": "freeze", "select": {"name": "0.weight"}, "when": [{"from_step": 3, "to_step": None}]}
    done = trained(tmp_path, {"default": "train", "rules": [rule]})
    (interval,) = done.observed["0.weight"]["intervals"]
    assert interval["from_step"] == 3
    assert "0.weight" in done.changed


@pytest.mark.parametrize("way", ["requires_grad"])
def test_plain_models_have_hidden_matrices(tmp_path: Path, way: str) -> None:
    """The architecture of these tests has two, and an output layer."""
    done = trained(tmp_path, {"freeze": ["0.bias"], "mechanism": way})
    assert MLP["architecture"] == "mlp"
    assert {"0.weight", "3.weight", "6.weight"} <= set(done.changed)
    assert Workspace(tmp_path).changed.exists()
