"""Gradients are added up over all ranks, for the tensors that any rank has one for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.trainer.gloo import on_ranks
from worker.trainer.ranks import gradients
from worker.trainer.ranks.gradients import combine
from worker.trainer.ranks.group import ALONE, Group


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1).double())]


def test_a_single_process_keeps_its_own() -> None:
    (weight, *_) = parameters()
    weight.grad = torch.ones(3)
    assert combine(ALONE, 2.5, [weight]) == 2.5
    assert torch.equal(weight.grad, torch.ones(3))


@pytest.mark.parametrize("bucket_bytes", [1, 64 << 20])
def test_sums_over_ranks(bucket_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dtype by itself, in buckets of any size; the gradient of one rank reaches all, and none stays none."""
    monkeypatch.setattr(gradients, "BUCKET_BYTES", bucket_bytes)

    def work(rank: int) -> Any:
        dense, sparse, never = parameters()
        dense.grad = torch.full((3,), rank + 1.0)
        if rank == 1:
            sparse.grad = torch.eye(2).to_sparse()
        total = combine(Group(rank, 2, "ddp"), 0.5 + rank, [dense, sparse, never])
        assert dense.grad is not None and sparse.grad is not None
        return total, dense.grad.tolist(), sparse.grad.tolist(), never.grad

    assert on_ranks(work) == [(2.0, [3.0] * 3, [[1.0, 0.0], [0.0, 1.0]], None)] * 2


def test_a_rank_without_a_loss_stops_all() -> None:
    """It ran out of memory: no rank adds anything up, and all begin the step again."""

    def work(rank: int) -> Any:
        (weight, *_) = parameters()
        weight.grad = torch.ones(3)
        total = combine(Group(rank, 2, "ddp"), None if rank else 1.0, [weight])
        assert weight.grad is not None
        return total, weight.grad.tolist()

    assert on_ranks(work) == [(None, [1.0] * 3)] * 2
