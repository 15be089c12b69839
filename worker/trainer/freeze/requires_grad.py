"""The attribute mechanism: `requires_grad` is false, so autograd computes no gradient for the tensor."""

from torch import nn


def freeze(parameter: nn.Parameter) -> None:
    parameter.requires_grad_(False)
    parameter.grad = None


def thaw(parameter: nn.Parameter) -> None:
    if can_train(parameter):
        parameter.requires_grad_(True)


def can_train(parameter: nn.Parameter) -> bool:
    """Autograd knows floating and complex tensors only; the integers of a quantised base stay as they are."""
    return parameter.is_floating_point() or parameter.is_complex()
