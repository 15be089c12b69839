"""Options that an optimizer would ignore or break on, by their path in a request."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.specs.optimizer_rules import refuse_ignored_options
from app.specs.optimizers import OptimizerSpec

HERE = "hyperparameters.optimizer"
OPTIONS = f"{HERE}.groups[0].options"


def grouped(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "groups": [{"select": {"name": "**"}, "options": options}]}


@pytest.mark.parametrize(
    ("optimizer", "param", "code", "says"),
    [
        ({"name": "adamw", "momentum": 0.9}, f"{HERE}.momentum", "unknown_option", "it has amsgrad, betas"),
        ({"name": "adamw", "eps": [1e-8, 1e-8]}, f"{HERE}.eps", "invalid_value", "one number"),
        ({"name": "adafactor", "eps": 1e-8}, f"{HERE}.eps", "invalid_value", "a pair of numbers"),
        (grouped("sgd", requires_grad=False), f"{OPTIONS}.requires_grad", "ignored_option", "would train on"),
        (grouped("sgd", momentun=0.9), f"{OPTIONS}.momentun", "ignored_option", "did you mean 'momentum'?"),
        (grouped("sgd", colour="red"), f"{OPTIONS}.colour", "ignored_option", "it knows dampening, lr"),
        (grouped("sgd", momentum=None), f"{OPTIONS}.momentum", "invalid_value", "leave it out"),
        (grouped("sgd", lr=-1), f"{OPTIONS}.lr", "invalid_value", "at least 0"),
        (grouped("sgd", lr=True), f"{OPTIONS}.lr", "invalid_value", "at least 0"),
        (grouped("sgd", momentum=1), f"{OPTIONS}.momentum", "invalid_value", "below 1"),
        (grouped("adamw", betas=[0.9]), f"{OPTIONS}.betas", "invalid_value", "a pair of numbers"),
        (grouped("adamw", eps=[1, 1]), f"{OPTIONS}.eps", "invalid_value", "one number"),
    ],
)
def test_what_is_refused(optimizer: dict[str, Any], param: str, code: str, says: str) -> None:
    """With the path of the option, and what the optimizer has."""
    with pytest.raises(InvalidRequest) as refused:
        refuse_ignored_options(OptimizerSpec.from_json(optimizer), enforce=True)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert says in refused.value.message


def test_what_is_taken() -> None:
    """No optimizer, options of its own, and any rate of a group."""
    for optimizer in (
        {"name": "adafactor", "eps": [1e-30, 1e-3]},
        grouped("muon", lr=0, ns_steps=3, betas=[0.9, 0.95]),
    ):
        refuse_ignored_options(OptimizerSpec.from_json(optimizer), enforce=True)
    refuse_ignored_options(None, enforce=True)


def test_an_audit_may_use_options_that_are_ignored() -> None:
    """It is how the detector is tested."""
    refuse_ignored_options(OptimizerSpec.from_json(grouped("sgd", requires_grad=False)), enforce=False)
