"""Freezes by setting `requires_grad` to false: autograd computes no gradient for the tensor."""

from torch import nn


def freeze(parameter: nn.Parameter) -> None:
    parameter.requires_grad_(False)
    parameter.grad = None


def thaw(parameter: nn.Parameter) -> None:
    if can_train(parameter):
        parameter.requires_grad_(True)


def can_train(parameter: nn.Parameter) -> bool:
    """Whether autograd supports the dtype: floating or complex. The integers of a quantised base do not train."""
    return parameter.is_floating_point() or parameter.is_complex()
