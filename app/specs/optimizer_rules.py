"""Options that an optimizer of torch would ignore or break on, refused before a step."""

import difflib
from collections.abc import Mapping
from typing import Any, Final

from app.errors import InvalidRequest
from app.specs.optimizers import OPTIONS, OptimizerSpec

_PARAM: Final = "hyperparameters.optimizer"


def refuse_ignored_options(optimizer: OptimizerSpec | None, *, enforce: bool) -> None:
    """Refuses options of groups that an optimizer would accept and ignore, such as `requires_grad`.

    An audit (`enforce` false) may use them on purpose: it is how the detector is tested.
    """
    if optimizer is None:
        return

    option_names, common = OPTIONS[optimizer.name], optimizer.options()
    for key in common:
        if key not in option_names:
            message = f"{optimizer.name} has no option {key!r}; it has {', '.join(sorted(option_names))}"
            raise InvalidRequest(message, param=f"{_PARAM}.{key}", code="unknown_option")
    _refuse_wrong_eps(optimizer.name, common, param=_PARAM)
    _refuse_idle_nesterov(optimizer.name, common, param=_PARAM)

    for number, group in enumerate(optimizer.groups or ()):
        param, options = f"{_PARAM}.groups[{number}].options", group.options or {}
        for key in options if enforce else ():
            if key not in option_names | {"lr"}:
                message = _why_ignored(key, optimizer.name, option_names | {"lr"})
                raise InvalidRequest(message, param=f"{param}.{key}", code="ignored_option")
        _refuse_wrong_values(optimizer.name, options, param=param)
        _refuse_idle_nesterov(optimizer.name, {**common, **options}, param=param)


def _refuse_wrong_values(name: str, options: Mapping[str, Any], *, param: str) -> None:
    """Refuses values that torch would only look at, and fail on, in its first step."""
    for key, value in options.items():
        if value is None and key in OPTIONS[name] | {"lr"}:
            raise InvalidRequest("must not be null; leave it out", param=f"{param}.{key}", code="invalid_value")
    rate = options.get("lr", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0:
        raise InvalidRequest(f"must be a number of at least 0, not {rate!r}", param=f"{param}.lr", code="invalid_value")

    own_options = {key: value for key, value in options.items() if key in OPTIONS[name]}
    try:
        OptimizerSpec.from_json({"name": name, **own_options}, param=param)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param=error.param, code="invalid_value") from None
    _refuse_wrong_eps(name, own_options, param=param)


def _refuse_idle_nesterov(name: str, options: Mapping[str, Any], *, param: str) -> None:
    """torch's SGD refuses Nesterov momentum without a momentum or with dampening, and in a group ignores it."""
    if name == "sgd" and options.get("nesterov") and (not options.get("momentum") or options.get("dampening")):
        message = "Nesterov momentum needs a momentum above 0 and no dampening"
        raise InvalidRequest(message, param=f"{param}.nesterov", code="invalid_value")


def _refuse_wrong_eps(name: str, options: Mapping[str, Any], *, param: str) -> None:
    """eps is a pair for adafactor and one number for the others."""
    if "eps" in options and isinstance(options["eps"], list | tuple) is not (name == "adafactor"):
        expected = "a pair of numbers" if name == "adafactor" else "one number"
        message = f"eps of {name} is {expected}, not {options['eps']!r}"
        raise InvalidRequest(message, param=f"{param}.eps", code="invalid_value")


def _why_ignored(key: str, name: str, option_names: frozenset[str]) -> str:
    if key == "requires_grad":
        return (
            f"{name} accepts 'requires_grad' in a parameter group and ignores it: the weight would train on. "
            'Freeze it with freeze_policy, for example {"freeze": ["weight"], "mechanism": "param_group"}; '
            "to watch the mistake happen, set freeze_policy.enforce to false"
        )
    near = difflib.get_close_matches(key, option_names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(option_names))}"
    return f"{name} accepts {key!r} in a parameter group and ignores it; {hint}"
