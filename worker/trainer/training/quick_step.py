"""A backward pass, clipping and AdamW's update in as few calls as their arithmetic needs: the same kernels and bits.

torch's own spend several times the arithmetic of a small head on finding out what they were given. Where anything
is out of the ordinary, torch's own do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.optim import Optimizer
from torch.optim import optimizer as hooks

from worker.trainer.witness.observe import whole

UPDATES: Final[dict[type, Callable[..., None]]] = {
    torch.optim.AdamW: torch._fused_adamw_,
    torch.optim.Adam: torch._fused_adam_,
}
#: Below this share of the limit no rounding makes a factor other than 1.
SAFE_SHARE: Final = 0.999


def backward(loss: Tensor, divisor: int) -> Tensor:
    """As `mean = loss / divisor; mean.backward()`, for a loss that is one number in fp32; returns the mean.

    The division's own backward pass divides 1 by the divisor, and so does this, without a node in the graph.
    """
    plain = type(loss) is Tensor and loss.device.type == "cpu" and loss.dtype is torch.float32
    if not plain or loss.ndim or not loss.requires_grad:
        mean = loss / divisor
        mean.backward()  # type: ignore[no-untyped-call]
        return mean.detach()
    with torch.no_grad():
        gradient = torch.ones_like(loss) / divisor
    Variable._execution_engine.run_backward(
        (loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
    return loss.detach() / divisor


def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to `max_norm` and return their norm before that."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients or not _alike(gradients) or gradients[0].device.type != "cpu":
        return float(whole(nn.utils.clip_grad_norm_(parameters, max_norm)).item())
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    norm = float(total.item())
    if not norm + 1e-6 < SAFE_SHARE * max_norm:  # also where it is not a number
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (total + 1e-6), max=1.0))
    return norm


@torch.no_grad()
def step(optimizer: Optimizer) -> None:
    """As `optimizer.step()`."""
    update = UPDATES.get(type(optimizer))
    ready = [_ready(optimizer, group) for group in optimizer.param_groups]
    if update is None or _hooked(optimizer) or any(lists is None for lists in ready):
        optimizer.step()
        return
    for group, lists in zip(optimizer.param_groups, ready, strict=True):
        if not lists or not lists[0]:
            continue
        parameters, gradients, means, squares, steps = lists
        torch._foreach_add_(steps, 1)
        beta1, beta2 = group["betas"]
        update(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            amsgrad=False,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=None,
        )


def _ready(optimizer: Optimizer, group: dict[str, Any]) -> list[list[Tensor]] | None:
    """Parameters with a gradient, their gradients and their state; None where torch's own step has to see to it."""
    plain = group.get("fused") and not (group["amsgrad"] or group["differentiable"] or group["capturable"])
    if not plain or not isinstance(group["lr"], float):
        return None
    parameters = [each for each in group["params"] if each.grad is not None]
    states: list[dict[str, Tensor]] = [optimizer.state.get(each, {}) for each in parameters]
    gradients = [each.grad for each in parameters]
    if not all(states) or not _alike([*parameters, *gradients]):
        return None
    return [parameters, gradients, *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))]


def _alike(tensors: Sequence[Tensor]) -> bool:
    """Whether these are plain dense tensors of one dtype on one device."""
    plain = all(type(each) in (Tensor, nn.Parameter) and each.layout is torch.strided for each in tensors)
    return plain and len({(each.dtype, each.device) for each in tensors}) <= 1


def _hooked(optimizer: Optimizer) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
    )
