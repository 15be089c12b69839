"""A few steps of a real optimizer under a policy, as the trainer does them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.apply import Frozen, freeze, refuse
from worker.trainer.freeze.inventory import tensors


def plan_for(model: nn.Module, policy: dict[str, Any]) -> FreezePlan:
    return resolve(Policy.from_json(policy), tensors(model))


def train(
    model: nn.Module,
    policy: dict[str, Any],
    loss: Callable[[nn.Module, int], Tensor],
    *,
    steps: int = 3,
    run: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Frozen:
    """AdamW with weight decay, clipping on what the policy trains; no frozen tensor may hold a gradient at any time."""
    plan = plan_for(model, policy)
    frozen = freeze(model, plan)
    optimizer = torch.optim.AdamW(frozen.parameters(), lr=1e-2, weight_decay=0.1)
    frozen.at_step(0, optimizer)
    refuse(model, plan, optimizer)
    running = run(model)
    model.train()
    for step in range(steps):
        loss(running, step).backward()
        enforced = plan.policy.enforce
        held = [name for name, p in model.named_parameters() if p.grad is not None and plan.decision(name).intervals]
        held = held if enforced else []
        assert not held
        torch.nn.utils.clip_grad_norm_(frozen.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        frozen.at_step(step + 1, optimizer)
    return frozen
