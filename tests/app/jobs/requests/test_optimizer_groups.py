"""Groups of an optimizer: each selects something that trains."""

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.tensors import TensorInfo
from app.jobs.requests.optimizer_groups import refuse_unreadable_groups
from app.specs.optimizers import OptimizerSpec

TENSORS = [
    TensorInfo.from_json({"name": name, "shape": [2], "dtype": "F32", "module_types": ["Affine"]})
    for name in ("weight", "bias")
]


def groups(*names: str) -> OptimizerSpec:
    return OptimizerSpec.from_json({"groups": [{"select": {"name": name}, "options": {}} for name in names]})


def check(optimizer: OptimizerSpec, *, enforce: bool = True, known: bool = True) -> None:
    policy: dict[str, Any] = {
        "rules": [{"id": "w", "action": "freeze", "select": {"name": "weight"}}],
        "enforce": enforce,
    }
    plan = resolve(Policy.from_json(policy), TENSORS)
    refuse_unreadable_groups(optimizer, TENSORS if known else None, plan if known else None, enforce=enforce)


def test_groups_over_what_trains() -> None:
    """In an audit what is declared frozen trains, too; of unknown tensors a name may be any."""
    check(groups("bias"))
    check(groups("weight", "bias"), enforce=False)
    check(groups("anything"), known=False)


@pytest.mark.parametrize(
    ("optimizer", "param"),
    [
        (groups("weight"), "hyperparameters.optimizer.groups[0]"),
        (groups("bias", "bias"), "hyperparameters.optimizer.groups[1]"),
        (groups("bais"), "hyperparameters.optimizer.groups[0].select.name"),
    ],
)
def test_groups_over_nothing_are_refused(optimizer: OptimizerSpec, param: str) -> None:
    """A frozen tensor, one that is in an earlier group, and a name that no tensor has."""
    with pytest.raises(InvalidRequest) as refused:
        check(optimizer)
    assert refused.value.param == param
