"""A tensor that is left out of every group keeps no gradient."""

import torch
from torch import nn

from worker.trainer.freeze import param_group


def test_gradients_are_dropped_until_the_handle_is_removed() -> None:
    """Gradient reaches the tensor, and is gone when the backward pass is over."""
    layer = nn.Linear(2, 2).requires_grad_(False)
    layer.weight.grad = torch.ones(2, 2)
    handle = param_group.freeze(layer.weight)
    assert layer.weight.requires_grad and layer.weight.grad is None
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is None
    handle.remove()
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None
