"""Freezes by leaving a tensor out of every optimizer group and dropping each gradient as it is accumulated.

Leaving a tensor out of the groups keeps its bits, but its gradients would pile up, and `clip_grad_norm_` over
`model.parameters()` would then scale those of the trainable weights. At most one such gradient is alive at once.
"""

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def freeze(parameter: nn.Parameter) -> RemovableHandle:
    """Drops every gradient of the parameter from now on. Removing the handle undoes it."""
    parameter.requires_grad_(True)
    parameter.grad = None
    return drop_gradients(parameter)


def drop_gradients(parameter: nn.Parameter) -> RemovableHandle:
    handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]
    return handle


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
