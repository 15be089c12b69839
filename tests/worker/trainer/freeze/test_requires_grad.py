"""Freezing by the attribute, for all dtypes that a model may have."""

import torch
from torch import nn

from worker.trainer.freeze import requires_grad


def test_freezing_drops_the_gradient_and_thawing_allows_one() -> None:
    """An optimizer would still apply a gradient that is left from before."""
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    requires_grad.freeze(weight)
    assert not weight.requires_grad and weight.grad is None
    requires_grad.thaw(weight)
    assert weight.requires_grad


def test_integers_are_never_thawed() -> None:
    """torch would raise; the weights of a quantised base stay as they are."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    requires_grad.thaw(weight)
    assert not weight.requires_grad
    assert [
        requires_grad.can_train(nn.Parameter(torch.zeros(1, dtype=dtype), requires_grad=False))
        for dtype in (torch.bfloat16, torch.complex64, torch.int8)
    ] == [True, True, False]
