"""A way of leaving padding out is found out where it changes what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.worker.trainer import tiny
from tests.worker.trainer.padding.runs import order, prepared
from worker.trainer.padding.attention import GROUPED
from worker.trainer.training import padding_free
from worker.trainer.training.loop import Run
from worker.trainer.training.padding_trial import difference

CHOSEN = np.array([0, 1, 2])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return prepared(order(tmp_path, tiny.bert, "text-classification", padding_free=True), tmp_path)


def test_nothing_differs(run: Run) -> None:
    assert difference(run.passes, run.passes.removal, CHOSEN) is None
    assert run.state.model.training
    assert all(parameter.grad is None for parameter in run.state.model.parameters())


class Mixing(nn.Module):
    """A layer that lets a token see the one before it, as convolutions and state spaces do."""

    def __init__(self, inner: nn.Module, share: float) -> None:
        super().__init__()
        self.inner = inner
        self.share = share

    def forward(self, hidden: torch.Tensor, *args: Any, **options: Any) -> Any:
        return self.inner(hidden + self.share * hidden.roll(1, dims=1), *args, **options)


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_leak_from_the_sequence_before(run: Run, share: float) -> None:
    run.passes.removal.remove()
    layers: Any = run.state.model.get_submodule("bert.encoder.layer")
    layers[1] = Mixing(layers[1], share)
    other = padding_free.again(run.passes, "layers")
    problem = difference(run.passes, other, CHOSEN)
    assert problem is not None
    assert "without it" in problem


def test_gradients_are_compared_and_not_the_loss_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass is right, and one gradient in the row of tokens is not."""
    attend = GROUPED.attention

    def halved(module: Any, query: Any, key: Any, value: torch.Tensor, *args: Any, **options: Any) -> Any:
        if GROUPED.layout is not None:
            value = value.detach() + 0.5 * (value - value.detach())
        return attend(module, query, key, value, *args, **options)

    from transformers import AttentionInterface

    monkeypatch.setitem(AttentionInterface._global_mapping, "permafrost_grouped", halved)
    assert difference(run.passes, run.passes.removal, CHOSEN) == "the model gives other gradients without it"


def test_model_that_fails_in_a_row_of_tokens(run: Run) -> None:
    layers: Any = run.state.model.get_submodule("bert.encoder.layer")

    def refuse(module: nn.Module, args: Any) -> None:
        if len(args[0]) == 1:
            raise ValueError("one row is too few")

    layers[1].register_forward_pre_hook(refuse)
    problem = difference(run.passes, run.passes.removal, CHOSEN)
    assert problem == "the model does not run without it: one row is too few"
