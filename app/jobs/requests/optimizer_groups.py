"""Refuses groups of an optimizer that select nothing, as the trainer will read them."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from app.freeze.tensors import TensorInfo
from app.specs.optimizers import OptimizerSpec

_AT: Final = "hyperparameters.optimizer"


def refuse_unreadable_groups(
    optimizer: OptimizerSpec | None,
    tensors: Collection[TensorInfo] | None,
    plan: FreezePlan | None,
    *,
    enforce: bool,
) -> None:
    """Refuses selectors that cannot be read and, where the tensors are known, groups without a tensor that trains."""
    groups = optimizer.groups if optimizer else None
    frozen = {decision.name for decision in plan.frozen} if plan is not None and enforce else set()
    taken: set[str] = set()
    for number, group in enumerate(groups or ()):
        at = f"{_AT}.groups[{number}]"
        chosen = _selected(group.select, tensors, at=at)
        if chosen is None:
            continue
        if not chosen - frozen - taken:
            raise InvalidRequest("this group selects nothing that trains and is not in a group before it", param=at)
        taken |= chosen


def _selected(select: Mapping[str, Any], tensors: Collection[TensorInfo] | None, *, at: str) -> set[str] | None:
    """Names of the tensors that a selector matches; None where the tensors are not known yet."""
    rule = {"id": "group", "action": "train", "select": dict(select)}
    try:
        policy = Policy.from_json({"default": "freeze", "rules": [rule]})
        decided = resolve(policy, tensors).decisions if tensors is not None else None
    except PolicyError as error:
        inside = (error.param or "").partition("rules[0]")[2] or ".select"
        message = error.message.replace("rule 'group'", "this group")
        raise InvalidRequest(message, param=f"{at}{inside}") from None
    return {decision.name for decision in decided if decision.rule == "group"} if decided is not None else None
