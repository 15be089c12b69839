"""NaN and infinity: found before a state is kept, with the step and the batch that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine
from worker.trainer.training.patience import Patience

#: The fifth of its rows: the x of line 17 is what no other row's is.
MARK = 7.0


class Trap(Affine):
    """Always a finite loss; the gradient is NaN for a batch that holds the marked row."""

    always = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        if self.training and (self.always or bool((x == MARK).any())):
            found = found + 0.0 * torch.sqrt(self.bias * 0.0)  # of which autograd makes 0 * infinity
        return found


def trapped(root: Path, monkeypatch: pytest.MonkeyPatch, *, always: bool = False, **wanted: Any) -> Attempt:
    monkeypatch.setattr(Trap, "always", always)
    monkeypatch.setitem(architectures.OURS, "trap", Trap)
    rows = [{"x": [MARK if at == 16 else at / 40] * 10, "y": [0.5] * 10} for at in range(40)]
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "learning_rate": 0.01, "optimizer": "sgd"} | wanted
    model = AFFINE | {"architecture": "trap"}
    return attempt(affine_order(root, rows=rows, model=model, hyperparameters=hyperparameters), root)


def test_a_result_is_always_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step with a finite loss and an unclipped NaN gradient: there is no result, and the tensor is named."""
    done = trapped(tmp_path, monkeypatch, batch_size=40)
    assert (done.code, done.failure["code"]) == (1, "diverged")
    assert "'bias'" in done.failure["message"]
    assert not done.place.result.exists()


def test_step_that_did_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is NaN one step later only; step and batch of the update before are reported, good checkpoints kept."""
    done = trapped(tmp_path, monkeypatch, checkpoint_steps=1, keep_checkpoints=10)
    assert done.failure["code"] == "diverged"
    told = done.failure["errors"][0]
    assert 17 in told["lines"]
    good = sorted(done.place.checkpoints.glob("step-*"))
    assert [int(path.name[5:]) for path in good] == list(range(1, told["step"]))
    for path in good:
        assert all(bool(torch.isfinite(each).all()) for each in load_file(path / "model.safetensors").values())


def test_step_between_checkpoints_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint between, the next step's loss shows it, and the reported batch is the one before."""
    done = trapped(tmp_path, monkeypatch, batch_size=4, checkpoint_steps=100)
    assert done.failure["code"] == "diverged"
    assert 17 in done.failure["errors"][0]["lines"]


def test_fp16_that_never_fits_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler skips updates and lowers its scale; where no scale helps the job fails."""
    done = trapped(tmp_path, monkeypatch, always=True, precision="fp16", n_epochs=20)
    assert (done.code, done.failure["code"]) == (1, "diverged")
    assert "fp16" in done.failure["message"]


class Masked(Affine):
    """Brings a mask, as attention has them."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mask", torch.full((3,), float("-inf")))


def test_base_may_hold_infinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that were infinite from the start do not end the run."""
    monkeypatch.setitem(architectures.OURS, "masked", Masked)
    order = affine_order(tmp_path, model=AFFINE | {"architecture": "masked"}, hyperparameters={"checkpoint_steps": 1})
    base = tmp_path / "base" / "model.safetensors"
    save_file(load_file(base) | {"mask": torch.full((3,), float("-inf"))}, base)
    assert attempt(order, tmp_path).code == 0


def test_a_first_evaluation_that_is_nan_is_not_the_best() -> None:
    """Any finite loss is better; a run whose evaluations are all NaN runs out of patience."""
    patience = Patience(2)
    assert not patience.take(1, {"loss": float("nan")})
    assert patience.take(2, {"loss": 3.0})
    assert (patience.step, patience.misses) == (2, 0)
    hopeless = Patience(2)
    assert not hopeless.take(1, {"loss": float("nan")})
    assert not hopeless.take(2, {"loss": float("inf")})
    assert hopeless.over
