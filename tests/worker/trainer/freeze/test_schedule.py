"""Freezing and thawing by optimizer step: exact intervals, nothing carried over, resumable anywhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.trainer.attempts import affine_order, attempt
from tests.worker.trainer.freeze.models import convnet, convnet_loss
from tests.worker.trainer.freeze.training import plan_for
from worker.trainer.freeze.apply import Frozen, freeze
from worker.trainer.witness.observe import observe

MECHANISMS = ("requires_grad", "detach", "param_group")


def scheduled(mechanism: str, *intervals: tuple[int, int | None]) -> dict[str, Any]:
    when = [{"from_step": start, "to_step": stop} for start, stop in intervals]
    rule = {"action": "freeze", "mechanism": mechanism, "select": {"name": ["0.**", "1.**"]}, "when": when}
    return {"default": "train", "rules": [rule]}


def run(
    model: nn.Module, frozen: Frozen, optimizer: torch.optim.Optimizer, *, start: int = 0, stop: int
) -> list[dict[str, str]]:
    """Digests after each step, with the state before the first in front."""
    seen = [observe(model)]
    model.train()
    for step in range(start + 1, stop + 1):
        convnet_loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # the hostile way: gradients stay, as zeros
        frozen.at_step(step, optimizer)
        seen.append(observe(model))
    return seen


def begin(policy: dict[str, Any]) -> tuple[nn.Module, Frozen, torch.optim.Optimizer]:
    model = convnet()
    frozen = freeze(model, plan_for(model, policy))
    optimizer = torch.optim.AdamW(frozen.parameters(), lr=1e-2, weight_decay=0.1)
    frozen.at_step(0, optimizer)
    return model, frozen, optimizer


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_tensors_move_exactly_outside_their_intervals(mechanism: str) -> None:
    """(1, 3] freezes the updates 2 and 3; old Adam state and zero gradients move nothing, statistics included."""
    model, frozen, optimizer = begin(scheduled(mechanism, (1, 3)))
    seen = run(model, frozen, optimizer, stop=5)
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.num_batches_tracked"):
        moved = [step for step in range(1, 6) if seen[step][name] != seen[step - 1][name]]
        assert moved == [1, 4, 5], name


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_schedules_train_the_same_bits_with_every_mechanism(mechanism: str) -> None:
    """Gradual unfreezing ends bit-equal whichever mechanism is used."""
    first = run(*begin(scheduled("requires_grad", (0, 2))), stop=4)
    assert run(*begin(scheduled(mechanism, (0, 2))), stop=4) == first


def test_a_freeze_drops_gradient_and_optimizer_state() -> None:
    """While frozen a tensor is in no group and has no gradient and no state; it thaws into its own place."""
    model, frozen, optimizer = begin(scheduled("requires_grad", (2, 4)))
    order = [id(p) for p in optimizer.param_groups[0]["params"]]
    run(model, frozen, optimizer, stop=2)
    weight = model.get_parameter("0.weight")
    assert weight.grad is None
    assert weight not in optimizer.state
    assert id(weight) not in [id(p) for p in optimizer.param_groups[0]["params"]]
    run(model, frozen, optimizer, start=2, stop=4)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == order
    assert weight not in optimizer.state


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_run_resumed_at_any_step_ends_with_the_same_bits(cut: int) -> None:
    """at_step depends on the step alone, so model and optimizer state load into the same groups."""
    policy = scheduled("detach", (1, 3))
    whole = run(*begin(policy), stop=5)[-1]
    model, frozen, optimizer = begin(policy)
    run(model, frozen, optimizer, stop=cut)
    saved = (model.state_dict(), optimizer.state_dict())

    model, frozen, optimizer = begin(policy)
    frozen.at_step(cut, optimizer)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert run(model, frozen, optimizer, start=cut, stop=5)[-1] == whole


def test_at_step_names_what_changed_sides() -> None:
    """Buffers of a scheduled module are named too, and steps without a change name nothing."""
    _, frozen, optimizer = begin(scheduled("requires_grad", (1, 2)))
    names = [
        "0.bias",
        "0.weight",
        "1.bias",
        "1.num_batches_tracked",
        "1.running_mean",
        "1.running_var",
        "1.weight",
    ]
    assert frozen.at_step(1, optimizer) == names
    assert frozen.at_step(1, optimizer) == []
    assert frozen.at_step(2, optimizer) == names


def test_thawed_norms_train_again() -> None:
    """After a thaw the norm follows model.train() as before."""
    model, frozen, optimizer = begin(scheduled("requires_grad", (0, 1)))
    model.train()
    assert not model.get_submodule("1").training
    frozen.at_step(1, optimizer)
    assert model.get_submodule("1").training


@pytest.mark.parametrize("fused", [False, True])
def test_a_group_may_be_empty_while_all_of_it_is_frozen(fused: bool) -> None:
    """A group whose tensors are all frozen steps without error."""
    model = convnet()
    frozen = freeze(model, plan_for(model, scheduled("requires_grad", (0, 1))))
    named = frozen.named_parameters()
    first = [p for name, p in named if name.startswith(("0.", "1."))]
    rest = [p for name, p in named if not name.startswith(("0.", "1."))]
    optimizer = torch.optim.AdamW([{"params": first}, {"params": rest}], fused=fused)
    frozen.at_step(0, optimizer)
    assert optimizer.param_groups[0]["params"] == []
    seen = run(model, frozen, optimizer, stop=2)
    assert seen[1]["0.weight"] == seen[0]["0.weight"] != seen[2]["0.weight"]


def test_momentum_of_a_tensor_that_thaws(tmp_path: Path) -> None:
    """SGD's begins with the tensor's first update, beside others that have one; and again after each freeze."""
    when = [{"from_step": 0, "to_step": 3}, {"from_step": 5, "to_step": 7}]
    policy = {"rules": [{"action": "freeze", "select": {"name": "weight"}, "when": when}]}
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "optimizer": {"name": "sgd", "momentum": 0.9}}
    done = attempt(affine_order(tmp_path, policy=policy, hyperparameters=hyperparameters), tmp_path)
    assert done.code == 0
    assert set(done.changed) == {"weight", "bias"}
