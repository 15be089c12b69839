"""Hooks of unknown origin are named with the place where they are registered; those of known libraries are not."""

import functools

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from worker.trainer.freeze.hooks import foreign
from worker.trainer.freeze.tensor_refs import tensor_refs


def a_hook(*_: object) -> None: ...


def found(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    frozen = [ref for ref in tensor_refs(model) if ref.name == "0.weight"]
    return foreign(model, frozen, optimizer)


def test_each_place_is_named() -> None:
    """On the optimizer, on all optimizers, on a gradient and on a module that owns a frozen tensor."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters())
    assert found(model, optimizer) == []
    optimizer.register_step_post_hook(a_hook)
    everywhere = register_optimizer_step_pre_hook(a_hook)
    try:
        model[1].weight.register_post_accumulate_grad_hook(a_hook)
        model[0].register_forward_hook(functools.partial(a_hook, 1))
        model[1].register_forward_hook(a_hook)  # owns nothing that is frozen
        name = f"the hook {__name__}.a_hook"
        assert found(model, optimizer) == [
            f"{name} on the optimizer",
            f"{name} on every optimizer of the process",
            f"{name} on the gradient of '1.weight'",
            f"{name} on the module '0'",
        ]
    finally:
        everywhere.remove()


def test_hooks_of_torch_are_known() -> None:
    """`weight_norm` and its like compose a weight before each pass."""
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters())
    torch.nn.utils.spectral_norm(model[0])
    assert found(model, optimizer) == []
