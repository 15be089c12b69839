"""Optimizers and their groups."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import InvalidRequest
from app.specs.optimizers import OPTIONS, OptimizerSpec
from worker.trainer.freeze.inventory import tensors
from worker.trainer.training.optimizer import CLASSES, build


def made(wanted: dict[str, Any], *, enforce: bool = True) -> torch.optim.Optimizer:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    named = list(model.named_parameters())
    return build(OptimizerSpec.from_json(wanted), named, learning_rate=0.1, inventory=tensors(model), enforce=enforce)


@pytest.mark.parametrize("name", CLASSES)
def test_the_options_of_a_spec_are_those_of_the_class(name: str) -> None:
    """All but those that are chosen here: they change how the arithmetic runs, or what can be resumed."""
    ours = {"params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize", "muon"}
    ours |= {"decoupled_weight_decay"}  # of adam: that is adamw
    assert set(inspect.signature(CLASSES[name]).parameters) - ours == OPTIONS[name]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor"])
def test_each_optimizer_steps(name: str) -> None:
    """Built by name, it moves what it was given."""
    optimizer = made({"name": name})
    parameter = optimizer.param_groups[0]["params"][0]
    before = parameter.detach().clone()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(before, parameter)


def test_vectors_do_not_decay() -> None:
    """Biases and norms are in a group without decay; without decay there is one group."""
    groups = made({"name": "adamw", "weight_decay": 0.1}).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0.0)]
    assert len(made({"name": "adamw", "weight_decay": 0.0}).param_groups) == 1


def test_asked_groups_come_in_order_and_the_rest_last() -> None:
    """First match wins, as in a policy; options are the group's own."""
    groups = made(
        {
            "name": "sgd",
            "groups": [
                {"select": {"name": "*.bias"}, "options": {"lr": 0.5}},
                {"select": {"module": "0"}, "options": {"momentum": 0.9}},
            ],
        }
    ).param_groups
    assert [(len(group["params"]), group["lr"], group["momentum"]) for group in groups] == [
        (2, 0.5, 0),
        (1, 0.1, 0.9),
        (1, 0.1, 0),
    ]


@pytest.mark.parametrize(
    ("wanted", "param", "says"),
    [
        ({"name": "sgdd"}, "name", "'sgd'"),
        ({"name": "sgd", "betas": [0.9, 0.99]}, "betas", "momentum"),
        ({"name": "adamw", "fused": False}, "fused", "has no 'fused'"),
        ({"name": "adamw", "betas": [0.9, 2.0]}, "betas[1]", "below 1"),
        ({"name": "sgd", "groups": [{"select": {"name": "nothing"}, "options": {}}]}, "select", "nothing"),
        (
            {"name": "sgd", "groups": [{"select": {"name": "**"}, "options": {"requires_grad": False}}]},
            "requires_grad",
            "",
        ),
        (
            {
                "name": "sgd",
                "groups": [{"select": {"name": "**"}, "options": {}}, {"select": {"name": "**"}, "options": {}}],
            },
            "groups[1]",
            "before it",
        ),
    ],
)
def test_what_torch_would_ignore_or_refuse_is_named(wanted: dict[str, Any], param: str, says: str) -> None:
    """param ends with the part that is wrong; the message offers what exists."""
    with pytest.raises(InvalidRequest) as refused:
        made(wanted)
    assert str(refused.value.param).endswith(param)
    assert says in refused.value.message


def test_audit_passes_ignored_options_on() -> None:
    """Without enforcement the option goes to torch, which ignores it: that is what the control is about."""
    groups = [{"select": {"name": "0.weight"}, "options": {"requires_grad": False}}]
    optimizer = made({"name": "sgd", "groups": groups}, enforce=False)
    assert optimizer.param_groups[0]["requires_grad"] is False
    assert optimizer.param_groups[0]["params"][0].requires_grad


@pytest.mark.parametrize("name", CLASSES)
def test_a_tensor_whose_first_gradient_comes_late_is_stepped(name: str) -> None:
    """An expert that the first batches do not ask, a branch not taken: others have a state by then."""
    early, late = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    wanted = OptimizerSpec.from_json({"name": name} | ({"momentum": 0.9} if name == "sgd" else {}))
    optimizer = build(
        wanted,
        [("early", early), ("late", late)],
        learning_rate=0.1,
        inventory=(),
        enforce=True,
        outer=(),
    )
    for asked in ((early,), (early, late), (late,)):
        optimizer.zero_grad()
        for parameter in asked:
            parameter.grad = torch.full_like(parameter, 0.5)
        before = late.detach().clone()
        optimizer.step()
        assert torch.equal(before, late) is (late not in set(asked))
