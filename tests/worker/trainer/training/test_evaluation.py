"""Metrics over the validation examples, in parts that fit into memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.trainer.attempts import affine_order, attempt
from tests.worker.trainer.training.test_passes import Hungry, trained


def test_evaluation_is_halved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fits in training need not fit in evaluation; the metrics are those of any other cut."""
    monkeypatch.setattr(Hungry, "evaluated", 2)
    done = trained(tmp_path / "halved", monkeypatch, 8, validation_fraction=0.2)
    monkeypatch.setattr(Hungry, "evaluated", 1000)
    free = trained(tmp_path / "free", monkeypatch, 8, validation_fraction=0.2)
    assert (done.code, free.code) == (0, 0), done.failure
    events = [each for each in done.of("event") if "out of memory" in each["message"]]
    assert [each["data"]["micro_batch_size"] for each in events] == [4, 2]
    assert "evaluation after step" in events[0]["message"]
    assert done.of("evaluation")[0]["metrics"] == pytest.approx(free.of("evaluation")[0]["metrics"], rel=1e-5)


def test_held_out_part_is_evaluated(tmp_path: Path) -> None:
    """A fraction is held out by seed; every epoch ends with metrics over it."""
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "learning_rate": 0.01, "validation_fraction": 0.25}
    done = attempt(affine_order(tmp_path, hyperparameters=hyperparameters), tmp_path)
    found = done.of("evaluation")
    assert [each["step"] for each in found] == [4, 8]
    assert {"loss", "mse", "mae", "r2"} <= set(found[0]["metrics"])
    assert found[0]["metrics"]["loss"] == pytest.approx(found[0]["metrics"]["mse"], rel=1e-5)
