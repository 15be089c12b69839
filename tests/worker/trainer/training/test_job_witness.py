"""A job's witness watches what the tool watches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.worker.trainer.attempts import AFFINE, affine_order, attempt, work_order
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine


class Graph(Affine):
    """Has a sparse buffer, which `write` moves in a forward pass."""

    write = False

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("graph", torch.eye(out_features).to_sparse(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.write:
            self.graph._values().add_(1.0)
        return super().forward(x) @ self.graph.to_dense()


@pytest.mark.parametrize("write", [False, True])
def test_sparse_buffers_are_watched_in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: bool) -> None:
    """Unchanged it trains to the end; a write is a violation by its name."""
    monkeypatch.setattr(Graph, "write", write)
    monkeypatch.setitem(architectures.OURS, "graph", Graph)
    model = AFFINE | {"architecture": "graph"}
    order = affine_order(tmp_path, model=model, policy={"freeze": ["weight", "graph"]})
    done = attempt(order, tmp_path)
    if write:
        assert done.failure["code"] == "frozen_tensor_changed"
        assert {report["name"] for report in done.of("violation")} == {"graph"}
    else:
        assert done.code == 0, done.failure


def test_a_sparse_tensor_in_the_files_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors holds dense tensors only."""

    class Stored(Affine):
        def __init__(self, in_features: int, out_features: int) -> None:
            super().__init__(in_features, out_features)
            self.register_buffer("graph", torch.eye(out_features).to_sparse())

    monkeypatch.setitem(architectures.OURS, "stored", Stored)
    model = AFFINE | {"architecture": "stored"}
    done = attempt(work_order(job_id="j", stage="initialise", model=model, seed=1), tmp_path)
    assert done.failure["param"] == "model.architecture"
    assert "'graph' has the layout torch.sparse_coo" in done.failure["message"]
