"""Refuses, before training, what several ranks could not do with the same result as one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import FreezePlan
from worker.trainer.freeze.inventory import tied
from worker.trainer.freeze.pin import moves_by_itself
from worker.trainer.freeze.tensor_refs import TensorRef, tensor_refs
from worker.trainer.ranks.group import Group
from worker.trainer.ranks.shards import layers

PARAM = "resources"
SHARDABLE = ("adamw", "adam", "sgd")  # each element of a tensor is stepped by itself


def refuse_request(group: Group, *, task: str, optimizer: str, precision: str, cached: bool, compiled: bool) -> None:
    """InvalidRequest for a task or a hyperparameter that needs the whole batch or whole tensors on one device."""
    if group.size == 1:
        return
    if task == "pairs":
        message = "pairs take their negatives from the whole batch, which several devices would cut; use one device"
        raise InvalidRequest(message, param=f"{PARAM}.devices")
    if cached:
        message = "the frozen prefix is computed once on one device only; leave prefix_cache out, or use one"
        raise InvalidRequest(message, param="hyperparameters.prefix_cache")
    if compiled:
        message = "a model is compiled on one device only; leave compile out, or use one"
        raise InvalidRequest(message, param="hyperparameters.compile")
    if not group.sharded:
        return
    if optimizer not in SHARDABLE:
        message = f"{optimizer} looks at whole tensors, and fsdp leaves a part on each device; use ddp, or adamw"
        raise InvalidRequest(message, param="hyperparameters.optimizer.name")
    if precision == "fp16":
        message = "the loss scaling of fp16 is not offered with fsdp; use bf16, or the strategy ddp"
        raise InvalidRequest(message, param="hyperparameters.precision")


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
    for decision in plan.split:
        yield f"'{decision.name}' is partly frozen, and fsdp cuts its rows by another rule; use the strategy ddp"
    owners = {id(module): number for number, layer in enumerate(layers(model), 1) for module in layer.modules()}
    for group in tied(model):
        if len({owners.get(id(slot.module), 0) for slot in group}) > 1:
            names = " and ".join(f"'{slot.name}'" for slot in group[:2])
            yield f"{names} are one tensor in two layers, which fsdp gathers one at a time; use the strategy ddp"
