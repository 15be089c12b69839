"""Backward passes, clipping and AdamW in few calls give the bits of torch's own, which see to what is unusual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from worker.trainer.training import quick_step

Make = Callable[[nn.Module], Optimizer]


def grouped(model: nn.Module) -> Optimizer:
    matrices = [each for each in model.parameters() if each.ndim > 1]
    vectors = [each for each in model.parameters() if each.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, fused=True)


OPTIMIZERS: dict[str, Make] = {
    "adamw in groups": grouped,
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, fused=True),
    "amsgrad": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True, amsgrad=True),
    "maximize": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True, maximize=True),
    "not fused": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
}


def trained(make: Make, *, quick: bool, scale: float, idle: bool) -> list[Any]:
    """Norms, weights and states after ten steps. `idle`: a parameter gets no gradient in some of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(33, 17), nn.Linear(17, 4))
    optimizer, found = make(model), []
    parameters = list(model.parameters())
    for number in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (number + 1)
        (scale * model(torch.randn(5, 33)).square().sum()).backward()
        if idle and number % 3:
            parameters[1].grad = None
        if quick:
            found.append(quick_step.clip(parameters, 1.0))
            quick_step.step(optimizer)
        else:
            found.append(float(nn.utils.clip_grad_norm_(parameters, 1.0)))
            optimizer.step()
        optimizer.zero_grad()
    states = [value for each in parameters for value in optimizer.state[each].values() if value is not None]
    return found + [each.detach().view(-1).view(torch.uint8).tolist() for each in (*parameters, *states)]


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4, float("inf")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_bits_as_torch(name: str, scale: float, idle: bool) -> None:
    """With gradients that are clipped, that are not, and that are not finite."""
    one, other = (trained(OPTIMIZERS[name], quick=quick, scale=scale, idle=idle) for quick in (True, False))
    assert str(one) == str(other)  # as text, NaN equals NaN


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divisor", [1, 3, 16, 1_000_003])
def test_gradients_of_a_mean_have_the_bits_of_torch(divisor: int, dtype: torch.dtype) -> None:
    """The mean of a summed loss as well, over two micro-batches; fp64 goes by torch."""
    torch.manual_seed(0)
    model, parts = nn.Linear(33, 4).to(dtype), torch.randn(2, 7, 33, dtype=dtype)
    means, gradients = [], []
    for quick in (True, False):
        model.zero_grad()
        for part in parts:
            loss = model(part).square().sum()
            mean = quick_step.backward(loss, divisor) if quick else loss / divisor
            if not quick:
                mean.backward()
            means.append(mean.detach())
        gradients.append([each.grad for each in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(means[:2], means[2:], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert not means[0].requires_grad


def test_a_loss_that_nothing_trains_is_an_error() -> None:
    """The same one as torch's."""
    with pytest.raises(RuntimeError, match="does not require grad"):
        quick_step.backward(torch.ones(()), 2)


def test_hooks_are_called() -> None:
    """An optimizer with a hook takes its own step."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        quick_step.step(optimizer)
    assert len(seen) == 3


def test_nothing_to_clip() -> None:
    """Without gradients the norm is 0."""
    assert quick_step.clip(list(nn.Linear(2, 2).parameters()), 1.0) == 0.0
