"""The training loop: the steps of a hand-written one, and its end by a time limit."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.worker.trainer.attempts import affine_order, attempt
from worker.trainer.data.sampler import Sampler


def test_plain_torch_loop_learns_the_same_bits(tmp_path: Path) -> None:
    """Our loop computes what a hand-written one computes: the same order, loss and optimizer give the same bits."""
    order = affine_order(
        tmp_path,
        hyperparameters={"n_epochs": 1, "batch_size": 40, "learning_rate": 0.05, "optimizer": {"name": "sgd"}},
    )
    done = attempt(order, tmp_path)
    rows = [json.loads(line) for line in (done.place.data / "train.jsonl").read_text().splitlines()]
    positions = Sampler(40, 40, order.seed).positions(1)
    x, y = torch.tensor([row["x"] for row in rows])[positions], torch.tensor([row["y"] for row in rows])[positions]
    weight, bias = (done.base[name].clone().requires_grad_() for name in ("weight", "bias"))
    loss = torch.nn.functional.mse_loss(x @ weight + bias, y, reduction="sum") / y.numel()
    loss.backward()
    torch.optim.SGD([weight, bias], lr=0.05, fused=True).step()
    assert torch.equal(done.changed["weight"], weight.detach())
    assert torch.equal(done.changed["bias"], bias.detach())


def test_time_limit_ends_with_a_result(tmp_path: Path) -> None:
    """max_run_seconds: training ends at a step's end, the result is exported, an event says so."""
    hyperparameters = {"n_epochs": 100_000, "batch_size": 40, "learning_rate": 0.01, "max_run_seconds": 0.2}
    done = attempt(affine_order(tmp_path, hyperparameters=hyperparameters), tmp_path)
    assert done.code == 0
    assert 0 < done.of("done")[0]["steps"] < 100_000
    assert any("max_run_seconds" in each["message"] for each in done.of("event"))
