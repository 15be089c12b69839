"""What moved a frozen tensor: named by a replay beside the run, which goes on as if nothing had been replayed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt, data, work_order
from worker.protocol import Workspace
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine
from worker.trainer.training import replay

AUDIT = {"freeze": ["weight"], "enforce": False}
HOLD = {"freeze": ["weight"]}


class LateWriter(Affine):
    """Writes to its weight in its tenth and later passes in training: one for each update."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.passes += 1  # type: ignore[assignment]
            if self.passes >= 10:
                self.weight.data.mul_(1.01)
        return super().forward(x)


class Stealthy(Affine):
    """Writes to its weight's memory where torch cannot see it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ctypes.memset(self.weight.data_ptr(), 1, 1)
        return super().forward(x)


class Outside(Affine):
    """The second one of its kind is sound: what moves the first one's weight comes from elsewhere."""

    made: ClassVar[int] = 0

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        type(self).made += 1
        self.first = type(self).made == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first and self.training:
            self.weight.data.add_(0.5)
        return super().forward(x)


class LastLook(Affine):
    """Writes while it is evaluated, and only then."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and len(x) > 2:  # the probe before training has two rows
            self.weight.data.mul_(1.01)
        return super().forward(x)


def run(root: Path, monkeypatch: pytest.MonkeyPatch, model: type[Affine], **changes: Any) -> Attempt:
    monkeypatch.setitem(architectures.OURS, "tested", model)
    order = affine_order(root, model=AFFINE | {"architecture": "tested"}, **changes)
    if model is LateWriter:
        from safetensors.torch import load_file, save_file

        path = Workspace(root).base / "model.safetensors"
        save_file(load_file(path) | {"passes": torch.zeros((), dtype=torch.int64)}, path)
    return attempt(order, root)


@pytest.mark.parametrize("checkpoints", [None, 4], ids=["from the start", "from a checkpoint"])
def test_late_write_is_dated_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: int | None
) -> None:
    """Between two sparse looks, the replay says at which update, by which operation on which line."""
    hyperparameters = {"n_epochs": 4, "batch_size": 8, "learning_rate": 0.01, "checkpoint_steps": checkpoints}
    evidence = {"overhead_budget": 0.0}
    policy = {"freeze": ["weight"], "buffers": "track"}
    done = run(tmp_path, monkeypatch, LateWriter, policy=policy, hyperparameters=hyperparameters, evidence=evidence)
    assert done.failure["code"] == "frozen_tensor_changed"
    violation = done.of("violation")[-1]
    assert (violation["last_good_step"], violation["first_bad_step"]) == (9, 10)
    assert violation["operation"].startswith("aten::mul_ at tests/worker/trainer/training/test_replay.py:")


@pytest.mark.parametrize(
    ("model", "says"),
    [(Stealthy, "outside torch's dispatcher"), (Outside, "the replay did not show it")],
    ids=["outside the dispatcher", "not in the replay"],
)
def test_what_a_replay_cannot_show_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[Affine], says: str
) -> None:
    """No operation is made up: the reason stands in the report and in the failure."""
    monkeypatch.setattr(Outside, "made", 0)
    done = run(tmp_path, monkeypatch, model, policy=HOLD)
    violation = done.of("violation")[-1]
    assert violation["operation"] is None
    assert says in violation["explanation"]
    assert "updates 1 to 1 were replayed" in violation["explanation"]
    assert says in done.failure["message"]


@pytest.mark.parametrize(("limit", "says"), [("SECONDS", "for lack of time"), ("SPARE", "does not fit")])
def test_replay_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, says: str) -> None:
    """Without time or memory for a second run there is none, and the report says so."""
    monkeypatch.setattr(replay, limit, -1.0 if limit == "SECONDS" else 0.0)
    done = run(tmp_path, monkeypatch, Affine, policy=AUDIT)
    violation = done.observations["violations"][0]
    assert (violation["first_bad_step"], violation["operation"]) == (1, None)
    assert says in violation["explanation"]


def test_move_in_the_last_evaluation_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last update there is a last look, which reports and aborts like those before it."""
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "learning_rate": 0.01, "validation_fraction": 0.25}
    done = run(tmp_path, monkeypatch, LastLook, policy=HOLD, hyperparameters=hyperparameters)
    assert (done.code, done.failure["code"]) == (1, "frozen_tensor_changed")
    assert done.of("violation")[-1]["name"] == "weight"
    assert not done.place.result.exists()


def test_audit_is_not_disturbed_by_its_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout and a shuffle by seed: the bits are those of a run that was not replayed."""
    done = {}
    for name in ("replayed", "alone"):
        place = Workspace(tmp_path / name).create()
        tiny.bert(place.base)
        rows = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS)]
        order = work_order(
            job_id="ftjob-audit",
            stage="train",
            model={"type": "transformers", "path": "tiny"},
            task="text-classification",
            data=data(place, rows),
            hyperparameters={"n_epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
            policy={"freeze": ["bert.**"], "enforce": False},
            seed=4,
            device="cpu",
        )
        if name == "alone":
            monkeypatch.setattr(replay, "SPARE", 0.0)
        done[name] = attempt(order, place.root)
    operations = [each["operation"] for each in done["replayed"].observations["violations"]]
    assert operations and all(each and "aten::_fused_adamw_" in each for each in operations)
    assert all(each["operation"] is None for each in done["alone"].observations["violations"])
    for name, tensor in done["alone"].changed.items():
        assert torch.equal(tensor, done["replayed"].changed[name]), name
