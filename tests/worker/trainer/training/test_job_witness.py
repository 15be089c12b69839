"""A job's witness watches what the tool watches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from app.freeze.plan import resolve
from app.freeze.policy import Policy
from tests.worker.trainer.attempts import AFFINE, affine_order, attempt, work_order
from tests.worker.trainer.witness.test_watchlist import Heard
from worker.protocol import Reporter, read_reports
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine
from worker.trainer.ranks.group import ALONE
from worker.trainer.training.job_witness import JobWitness
from worker.trainer.witness.blame import ReplayFinding
from worker.trainer.witness.guard import Write
from worker.trainer.witness.report import Violation
from worker.trainer.witness.witness import Witness


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


def test_only_what_has_no_cause_is_replayed(tmp_path: Path) -> None:
    """A write that was named when it was made needs no replay; what moved beside it does, and is reported once more."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plan = resolve(Policy.from_json({"freeze": ["0.**"], "on_violation": "continue"}), tensors(model))
    asked: list[str] = []

    def explain(violations: Sequence[Violation]) -> list[ReplayFinding]:
        asked.extend(violation.name for violation in violations)
        return [ReplayFinding(violation.name, 1, "aten::mul_", "b.py:2 in g", "") for violation in violations]

    with Reporter(tmp_path / "reports", aloud=False) as reporter, Witness(model, plan=plan) as witness:
        job = JobWitness(witness, plan, reporter, ALONE)
        job.explain = explain
        witness.listen(Heard({"0.weight": Write("0.weight", "aten::add_", "a.py:1 in f")}))
        model[0].weight.data.add_(1)
        model[0].bias.data.mul_(3)
        job.after_step()
    assert asked == ["0.bias"]
    causes = {"0.weight": "aten::add_ at a.py:1 in f", "0.bias": "aten::mul_ at b.py:2 in g"}
    assert {violation.name: violation.operation for violation in witness.violations} == causes
    reports = [(each["name"], each["operation"]) for each in read_reports(tmp_path / "reports")[0]]
    assert sorted(reports, key=str) == sorted([*causes.items(), ("0.bias", None)], key=str)
