"""Refuses, before training, what several ranks could not do with the same result as one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from app.errors import PolicyError
from app.freeze.plan import FreezePlan
from app.specs.fit import refuse_devices
from worker.trainer.freeze.inventory import tied
from worker.trainer.freeze.pin import moves_by_itself
from worker.trainer.freeze.quantised_parts import is_quantised
from worker.trainer.freeze.tensor_refs import TensorRef, tensor_refs
from worker.trainer.ranks.group import Group
from worker.trainer.ranks.shards import layers

PARAM = "resources"


def refuse_request(group: Group, *, task: str, optimizer: str, precision: str, cached: bool, compiled: bool) -> None:
    """InvalidRequest for a task or a hyperparameter that needs the whole batch or whole tensors on one device."""
    refuse_devices(
        group.size,
        sharded=group.sharded,
        task=task,
        optimizer=optimizer,
        precision=precision,
        cached=cached,
        compiled=compiled,
    )


def refuse_model(model: nn.Module, plan: FreezePlan, group: Group) -> None:
    """PolicyError for a module whose state would differ between ranks, because each sees other examples."""
    if group.size == 1:
        return
    for slot in tensor_refs(model):
        reason = _why_ranks_differ(slot, plan)
        if reason is not None:
            raise PolicyError(f"{reason}; freeze it, or use one device", param="freeze_policy")


def refuse_shards(model: nn.Module, plan: FreezePlan) -> None:
    """PolicyError for tensors that cannot be sharded. Call before they are."""
    message = next(_unshardable(model, plan), None)
    if message is not None:
        raise PolicyError(message, param=f"{PARAM}.strategy")


def _why_ranks_differ(slot: TensorRef, plan: FreezePlan) -> str | None:
    if plan.policy.enforce and any(slot.name in (each.name, *each.aliases) for each in plan.frozen):
        return None
    if slot.kind == "buffer" and moves_by_itself(slot):
        return f"'{slot.name}' follows the examples that its own device sees, so each of several would have another"
    if slot.kind == "parameter" and getattr(slot.module, "max_norm", None) is not None:
        return f"'{slot.path}' has max_norm: it rewrites the rows that it reads, on each device others"
    return None


def _unshardable(model: nn.Module, plan: FreezePlan) -> Iterator[str]:
    for path, module in model.named_modules():
        if is_quantised(module):
            yield f"the weight of '{path}' is quantised, and fsdp would leave its scales behind; use the strategy ddp"
    for decision in plan.split:
        yield f"'{decision.name}' is partly frozen, and fsdp cuts its rows by another rule; use the strategy ddp"
    owners = {id(module): number for number, layer in enumerate(layers(model), 1) for module in layer.modules()}
    for group in tied(model):
        if len({owners.get(id(slot.module), 0) for slot in group}) > 1:
            names = " and ".join(f"'{slot.name}'" for slot in group[:2])
            yield f"{names} are one tensor in two layers, which fsdp gathers one at a time; use the strategy ddp"
