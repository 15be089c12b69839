"""What goes wrong on one rank alone: caught, named with its rank, and ends all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, affine_order, attempt, data
from tests.worker.trainer.ranks.leaky import trained
from worker.protocol import EXIT_FAILED, Workspace
from worker.trainer.models import architectures


@pytest.mark.parametrize(("habit", "name"), [("move_parameter", "weight"), ("move_buffer", "scale")])
def test_drift_on_one_rank_is_named_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, habit: str, name: str
) -> None:
    """X2, X3: a frozen tensor that moves on rank 1 only, where the first rank's files would not show it."""
    done = trained(tmp_path, monkeypatch, habit)
    assert done.code == EXIT_FAILED
    (violation,) = done.of("violation")
    assert (violation["name"], violation["rank"]) == (name, 1)
    assert violation["last_good_step"] < 3 <= violation["first_bad_step"]
    assert done.failure["code"] == "frozen_tensor_changed"
    assert f"{name}: bytes changed" in done.failure["message"]
    assert "on rank 1" in done.failure["message"]


def test_drift_on_one_rank_is_in_the_evidence_of_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `on_violation: continue` the run goes on to its end, where its replicas are no longer one model."""
    policy = {"freeze": ["weight", "scale"], "on_violation": "continue"}
    done = trained(tmp_path, monkeypatch, "move_parameter", policy=policy)
    assert [(each["name"], each["rank"]) for each in done.of("violation")] == [("weight", 1)]
    assert done.failure["code"] == "ranks_apart"
    assert "'weight' on rank 1" in done.failure["message"]


def test_out_of_memory_on_one_rank_halves_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 alone runs out of memory: all halve until it fits, and the batch is kept: the result is that of a job that
    asked for micro-batches of that size from the start."""
    done = trained(tmp_path / "halved", monkeypatch, "starve")
    events = [each for each in done.of("event") if "out of memory" in each["message"]]
    assert [each["data"]["micro_batch_size"] for each in events] == [4, 2, 1]
    assert "on another rank" in events[0]["message"]
    monkeypatch.setattr("tests.worker.trainer.ranks.leaky.Leaky.rank", 7)
    asked = trained(tmp_path / "asked", monkeypatch, "starve", hyperparameters={"micro_batch_size": 1})
    assert (done.code, asked.code) == (0, 0)
    changed = done.changed
    assert changed.keys() == {"bias"}
    assert torch.allclose(changed["bias"], asked.changed["bias"], atol=1e-6)


class Normed(nn.Module):
    """A BatchNorm whose statistics follow what passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(10), nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.norm(x))
        return out


def normed(root: Path, monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any]) -> Attempt:
    monkeypatch.setitem(architectures.OURS, "normed", Normed)
    place = Workspace(root).create()
    torch.manual_seed(0)
    save_file(Normed().state_dict(), place.base / "model.safetensors")
    model = {"type": "torch", "architecture": "normed", "kwargs": {}}
    return attempt(affine_order(root, model=model, devices=2, policy=policy), root)


def test_statistics_of_batches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm over half a batch is another BatchNorm, on each rank another; frozen it is pinned, and trains."""
    refused = normed(tmp_path / "trained", monkeypatch, {"freeze": ["out.bias"]})
    assert refused.failure["code"] == "invalid_freeze_policy"
    assert "'norm.running_mean' follows the examples" in refused.failure["message"]
    pinned = normed(tmp_path / "pinned", monkeypatch, {"freeze": ["norm.**"]})
    assert pinned.code == 0
    assert {name for name, each in pinned.result.items() if each["from"] == "changed"} == {"out.weight", "out.bias"}
    assert pinned.observations["verdict"] == "verified"


def test_pairs_are_refused(tmp_path: Path) -> None:
    """Their negatives come from the whole batch."""
    place = Workspace(tmp_path).create()
    tiny.bert(place.base)
    rows = [{"anchor": "cat", "positive": "dog"}, {"anchor": "good", "positive": "book"}] * 4
    model = {"type": "transformers", "path": "tiny"}
    order = affine_order(
        tmp_path, model=model, task="pairs", devices=2, data=data(place, rows, "pairs.jsonl"), hyperparameters={}
    )
    done = attempt(order, tmp_path)
    assert (done.failure["param"], "negatives" in done.failure["message"]) == ("resources.devices", True)
