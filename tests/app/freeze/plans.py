"""Plans of policies over the models of these tests."""

import pytest

from app.errors import PolicyError
from app.freeze.plan import resolve
from app.freeze.policy import Policy


def plan_of(policy, tensors):
    return resolve(Policy.from_json(policy), tensors)


def refused(policy, tensors):
    with pytest.raises(PolicyError) as caught:
        plan_of(policy, tensors)
    return caught.value


def freeze(select, **parts):
    return {"rules": [{"id": "it", "action": "freeze", "select": select, **parts}]}


def frozen_names(policy, tensors):
    return {decision.name for decision in plan_of(policy, tensors).frozen}


def names(tensors, *parts):
    return {tensor.name for tensor in tensors if any(part in tensor.name for part in parts)}
