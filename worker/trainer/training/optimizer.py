"""Builds the optimizer over the tensors that train: AdamW, Adam, SGD, Adafactor or Muon, in groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import TensorInfo, resolve
from app.freeze.policy import Policy
from app.specs.optimizer_rules import refuse_ignored_options
from app.specs.optimizers import OptimizerGroup, OptimizerSpec
from worker.trainer.training import muon

CLASSES: dict[str, Callable[..., Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adafactor": torch.optim.Adafactor,
    "muon": muon.Muon,
}
PARAM = "hyperparameters.optimizer"

Named = Sequence[tuple[str, nn.Parameter]]


def build(
    spec: OptimizerSpec,
    parameters: Named,
    *,
    learning_rate: float,
    inventory: Sequence[TensorInfo],
    enforce: bool,
    outer: Collection[str] = (),
) -> Optimizer:
    """The optimizer that `spec` describes. InvalidRequest for unknown options and groups that select nothing.

    torch accepts and ignores a group option that the optimizer does not have (such as `requires_grad`), so that is
    refused here too; with `enforce` false it is passed on, as a loop written by hand would. Unless the request has
    groups of its own, weight decay leaves out tensors of fewer than two dimensions. `outer` has the names that Muon
    leaves to AdamW.
    """
    name, options = spec.name, spec.options()
    refuse_ignored_options(spec, enforce=enforce)
    if spec.groups:
        groups = _requested_groups(name, spec.groups, parameters, inventory=inventory, enforce=enforce)
    else:
        groups = _decay_groups(parameters, decay=float(options.get("weight_decay", 0.0)))
    if name == "muon":
        groups = muon.divided(groups, names={id(each): key for key, each in parameters}, outside=outer)
    options |= _fused(name, parameters)
    try:
        return CLASSES[name](groups, lr=learning_rate, **options)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{name} refused its options: {error}", param=PARAM) from None


def _decay_groups(parameters: Named, *, decay: float) -> list[dict[str, Any]]:
    if not decay:
        return [{"params": [parameter for _, parameter in parameters]}]
    matrices = [parameter for _, parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for _, parameter in parameters if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _requested_groups(
    name: str,
    requested: Sequence[OptimizerGroup],
    parameters: Named,
    *,
    inventory: Sequence[TensorInfo],
    enforce: bool,
) -> list[dict[str, Any]]:
    """The requested groups, in which the first match wins, and a last one, without options, of the other parameters."""
    unassigned = dict(parameters)
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(requested):
        at = f"{PARAM}.groups[{index}]"
        options = dict(group.options or {})
        chosen = _selected(group.select, inventory, at=at)
        members = [key for key in unassigned if key.split("[")[0] in chosen]
        if not members:
            raise InvalidRequest("this group selects nothing that trains and is not in a group before it", param=at)
        groups.append({"params": [unassigned.pop(key) for key in members], **options})
    if unassigned:
        groups.append({"params": list(unassigned.values())})
    return groups


def _selected(select: Any, inventory: Sequence[TensorInfo], *, at: str) -> set[str]:
    """The live names that a selector of the policy's language means."""
    policy = {"default": "freeze", "rules": [{"id": "group", "action": "train", "select": select}]}
    try:
        plan = resolve(Policy.from_json(policy), inventory)
    except PolicyError as error:
        raise InvalidRequest(error.message, param=f"{at}.select") from None
    return {decision.name for decision in plan.decisions if decision.rule == "group"}


def _fused(name: str, parameters: Named) -> dict[str, bool]:
    """One kernel over all tensors where torch has it for these devices and dtypes.

    Not SGD's: with momentum it fails where some tensors have one already and others none yet (a thaw, an expert's first
    token), and keeps one of whatever lay in memory where a scaler skips the first step.
    """
    if name in ("adafactor", "sgd"):
        return {}
    supported = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for _, p in parameters)
    return {"fused": True} if supported else {}
