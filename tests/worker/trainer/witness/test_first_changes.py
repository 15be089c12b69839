"""Trained tensors are dated by the check that first saw other bytes."""

from typing import Any

import torch
from torch import nn

from app.freeze.plan import resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.first_changes import FirstChanges
from worker.trainer.witness.live_names import live_tensors

PRINTS = Fingerprints(bytes(16))


def add_to(parameter: Any) -> None:
    with torch.no_grad():
        parameter.add_(1)


def begun(model: nn.Module) -> FirstChanges:
    plan = resolve(Policy.from_json({"freeze": ["0.weight"]}), tensors(model))
    changes = FirstChanges()
    changes.begin(plan.decisions, live_tensors(model), PRINTS)
    return changes


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def test_a_tensor_is_dated_once_and_frozen_ones_never() -> None:
    """The step of the first check that sees it; a later change has no say. What is frozen is the watchlist's matter."""
    model = net()
    changes, live = begun(model), live_tensors(model)
    assert set(changes.sizes(live)) == {"0.bias", "1.weight", "1.bias"}
    assert changes.sizes(live)["1.weight"] == 36
    add_to(model[0].weight)
    add_to(model[1].weight)
    changes.check(live, PRINTS, step=4)
    add_to(model[1].weight)
    add_to(model[1].bias)
    changes.check(live, PRINTS, step=5)
    assert changes.found == {"1.weight": 4, "1.bias": 5}
    assert changes.pending  # 0.bias


def test_a_check_of_some_names_leaves_the_others() -> None:
    """A check within the budget looks at a few; only one without names has looked at all."""
    model = net()
    changes, live = begun(model), live_tensors(model)
    add_to(model[0].bias)
    add_to(model[1].bias)
    changes.check(live, PRINTS, step=2, names=["1.bias"])
    assert (changes.found, changes.looked_at_all) == ({"1.bias": 2}, False)
    changes.check(live, PRINTS, step=3)
    assert (changes.found, changes.looked_at_all) == ({"1.bias": 2, "0.bias": 3}, True)


def test_a_tensor_that_is_gone_has_changed() -> None:
    """Deleting it is no way around the date."""
    model = net()
    changes = begun(model)
    model[1].register_parameter("bias", None)
    changes.check(live_tensors(model), PRINTS, step=7)
    assert changes.found == {"1.bias": 7}


def test_the_state_goes_into_a_checkpoint() -> None:
    """Restored, what had not moved is still compared with its bytes at the start of the run."""
    model = net()
    changes, live = begun(model), live_tensors(model)
    add_to(model[1].bias)
    changes.check(live, PRINTS, step=1)
    restored = FirstChanges()
    restored.load_state_dict(changes.state_dict())
    restored.resume(live, PRINTS)
    add_to(model[1].weight)
    restored.check(live, PRINTS, step=9)
    assert restored.found == {"1.bias": 1, "1.weight": 9}
