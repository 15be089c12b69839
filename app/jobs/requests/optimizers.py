"""Refuses optimizer options that torch would ignore or break on, as the trainer will read them."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final

from pydantic import ValidationError

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from app.freeze.tensors import TensorInfo
from app.jobs.requests.hyperparameters import Hyperparameters, Optimizer

#: The options that each optimizer uses. It accepts any other key in a group silently, and ignores it.
OPTIONS: Final[dict[str, frozenset[str]]] = {
    "sgd": frozenset({"weight_decay", "momentum", "dampening", "nesterov"}),
    "adam": frozenset({"weight_decay", "betas", "eps", "amsgrad"}),
    "adamw": frozenset({"weight_decay", "betas", "eps", "amsgrad"}),
    "adafactor": frozenset({"weight_decay", "beta2_decay", "eps", "d"}),
    "muon": frozenset({"weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn", "betas", "eps"}),
}
_AT: Final = "hyperparameters.optimizer"


def refuse_ignored_options(hyperparameters: Hyperparameters, policy: Policy) -> None:
    """Refuses options of groups that an optimizer would accept and ignore, such as `requires_grad`.

    An audit (`enforce: false`) may use them on purpose: it is how the detector is tested.
    """
    optimizer = hyperparameters.optimizer
    if optimizer is None:
        return
    known = OPTIONS[optimizer.name]
    given = optimizer.model_dump(exclude_none=True, exclude={"name", "groups"})
    for key in given:
        if key not in known:
            message = f"{optimizer.name} has no option {key!r}; it has {', '.join(sorted(known))}"
            raise InvalidRequest(message, param=f"{_AT}.{key}", code="unknown_option")
    _refuse_wrong_eps(optimizer.name, given, at=_AT)

    for number, group in enumerate(optimizer.groups or []):
        at = f"{_AT}.groups[{number}].options"
        for key in group.options if policy.enforce else ():
            if key not in known | {"lr"}:
                message = _why_ignored(key, optimizer.name, known | {"lr"})
                raise InvalidRequest(message, param=f"{at}.{key}", code="ignored_option")
        _refuse_wrong_values(optimizer.name, group.options, at=at)


def refuse_unreadable_groups(
    hyperparameters: Hyperparameters,
    tensors: Collection[TensorInfo] | None,
    plan: FreezePlan | None,
    *,
    enforce: bool,
) -> None:
    """Refuses selectors that cannot be read and, where the tensors are known, groups without a tensor that trains."""
    groups = hyperparameters.optimizer.groups if hyperparameters.optimizer else None
    frozen = {decision.name for decision in plan.frozen} if plan is not None and enforce else set()
    taken: set[str] = set()
    for number, group in enumerate(groups or []):
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


def _refuse_wrong_values(name: str, options: Mapping[str, Any], *, at: str) -> None:
    """Refuses values that torch would only look at, and fail on, in its first step."""
    for key, value in options.items():
        if value is None and key in OPTIONS[name] | {"lr"}:
            raise InvalidRequest("must not be null; leave it out", param=f"{at}.{key}", code="invalid_value")
    rate = options.get("lr", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0:
        raise InvalidRequest(f"must be a number of at least 0, not {rate!r}", param=f"{at}.lr", code="invalid_value")
    known = {key: value for key, value in options.items() if key in OPTIONS[name]}
    try:
        Optimizer.model_validate({"name": name, **known})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        message = f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {options.get(key)!r}"
        raise InvalidRequest(message, param=f"{at}.{key}", code="invalid_value") from None
    _refuse_wrong_eps(name, known, at=at)


def _refuse_wrong_eps(name: str, options: Mapping[str, Any], *, at: str) -> None:
    """eps is a pair for adafactor and one number for the others."""
    if "eps" in options and isinstance(options["eps"], list) is not (name == "adafactor"):
        expected = "a pair of numbers" if name == "adafactor" else "one number"
        message = f"eps of {name} is {expected}, not {options['eps']!r}"
        raise InvalidRequest(message, param=f"{at}.eps", code="invalid_value")


def _why_ignored(key: str, name: str, known: frozenset[str]) -> str:
    if key == "requires_grad":
        return (
            f"{name} accepts 'requires_grad' in a parameter group and ignores it: the weight would train on. "
            'Freeze it with freeze_policy, for example {"freeze": ["weight"], "mechanism": "param_group"}; '
            "to watch the mistake happen, set freeze_policy.enforce to false"
        )
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(sorted(known))}"
    return f"{name} accepts {key!r} in a parameter group and ignores it; {hint}"
