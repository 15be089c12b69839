"""A tensor that is left out of every group keeps no gradient."""

import torch
from torch import nn

from worker.trainer.freeze import param_group


def test_gradients_are_dropped_until_the_handle_is_removed() -> None:
    """Gradient reaches the tensor, and is gone when the backward pass is over."""
    weight = nn.Parameter(torch.ones(2), requires_grad=False)
    weight.grad = torch.ones(2)
    handle = param_group.freeze(weight)
    assert weight.requires_grad and weight.grad is None
    (3 * weight).sum().backward()
    assert weight.grad is None
    handle.remove()
    (3 * weight).sum().backward()
    assert weight.grad is not None
