"""Hints fire on what moves objects, memory, counters and attributes, and stay quiet otherwise."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from worker.trainer.freeze.tensor_refs import tensor_refs
from worker.trainer.witness.tripwires import PROPERTY_STEPS, Signs, Tripwire


def wire_on(model: nn.Module, name: str = "weight") -> Tripwire:
    return Tripwire.on(next(slot for slot in tensor_refs(model) if slot.name == name))


def replaced(model: nn.Linear) -> None:
    model.weight = nn.Parameter(model.weight.detach().clone())


def removed(model: nn.Linear) -> None:
    del model.weight


@pytest.mark.parametrize(
    "touch",
    [
        lambda m: m.weight.detach().add_(0),
        replaced,
        removed,
        lambda m: setattr(m.weight, "data", m.weight.data.clone()),
        lambda m: m.half(),
        lambda m: m.weight.requires_grad_(False),
    ],
    ids=["counter", "object", "name", "memory", "cast", "attribute"],
)
def test_a_touch_trips(touch: Callable[[nn.Linear], object]) -> None:
    """Each of the signs by itself."""
    model = nn.Linear(2, 2)
    wire = wire_on(model)
    signs = Signs([wire, wire_on(model, "bias")])
    assert not wire.tripped()
    assert all(signs.unmoved() for _ in range(2 * PROPERTY_STEPS))
    touch(model)
    assert wire.tripped()
    assert not all(signs.unmoved() for _ in range(PROPERTY_STEPS))
    wire.arm()
    assert not wire.tripped()


def test_fused_optimizers_do_not_trip() -> None:
    """Why hints prove nothing: a fused step writes and the counter stands still."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    wire = wire_on(model)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert not wire.tripped()


def test_a_counter_that_cries_wolf_is_left_alone() -> None:
    """After some false alarms the counter is ignored, the other signs are not."""
    model = nn.Linear(2, 2)
    wire = wire_on(model)
    wire.false_alarms = 8
    signs = Signs([wire])
    model.weight.detach().add_(0)
    assert not wire.tripped()
    assert signs.unmoved()
    model.half()
    assert wire.tripped()
    assert not signs.unmoved()


def test_inference_tensors_have_no_counter() -> None:
    """They are watched by the other signs."""
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    wire = wire_on(model)
    assert not wire.tripped()
    assert Signs([wire]).unmoved()
