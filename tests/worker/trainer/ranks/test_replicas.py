"""A model that is not the same on every rank is refused, by tensor and rank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.worker.trainer.attempts import affine_order, attempt
from tests.worker.trainer.ranks.leaky import trained
from worker.protocol import EXIT_FAILED
from worker.trainer.models import loading


def test_trained_tensor_that_goes_its_own_way_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No policy speaks of it, and it would be in nobody's result: replicas are compared at checkpoints and the end."""
    done = trained(tmp_path, monkeypatch, "move_trained", hyperparameters={"checkpoint_steps": 4})
    assert (done.code, done.failure["code"]) == (EXIT_FAILED, "ranks_apart")
    assert "'bias' on rank 1 is not what it is on rank 0, after step 4" in done.failure["message"]


def test_another_base_on_one_rank_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X1: where DistributedDataParallel would write rank 0's frozen weights over the others', nothing is written."""
    real = loading.load

    def load(*args: Any, **kwargs: Any) -> loading.Loaded:
        loaded = real(*args, **kwargs)
        if os.environ.get("RANK") == "1":
            next(loaded.model.parameters()).data.view(-1)[0].neg_()
        return loaded

    monkeypatch.setattr(loading, "load", load)
    # The weight trains: a frozen one that is not its file's is refused before ranks are compared.
    done = attempt(affine_order(tmp_path, devices=2, policy={"freeze": ["bias"]}), tmp_path)
    assert (done.code, done.failure["code"]) == (EXIT_FAILED, "ranks_apart")
    assert "on rank 1 is not what it is on rank 0, before the first step" in done.failure["message"]
    assert not done.of("step")
