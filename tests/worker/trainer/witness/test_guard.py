"""The write-guard names the operation and the line; blame does so in a replay, or says why it cannot."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from worker.trainer.witness import Witness
from worker.trainer.witness.guard import WriteGuard


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def write(model: nn.Sequential, how: Callable[[nn.Sequential], Any]) -> list[str]:
    """Operations that the guard blames for changes to `0.weight` and the norm's statistics."""
    with Witness(model, freeze=["0.weight", "1.running_mean"], guard=True) as w:
        how(model)
        w.step()
    return [str(violation.operation).partition(" at ")[0] for violation in w.report().violations]


def optimizer_step(model: nn.Sequential, kind: type[torch.optim.Optimizer], **options: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kind(model.parameters(), lr=0.1, **options).step()  # type: ignore[call-arg]


def flat_write(model: nn.Sequential) -> None:
    weight = model[0].weight.data
    torch.as_strided(weight, (weight.numel(),), (1,)).add_(1)  # type: ignore[arg-type]


WRITES: dict[str, tuple[Callable[[nn.Sequential], Any], str]] = {
    "fused AdamW": (lambda m: optimizer_step(m, torch.optim.AdamW, fused=True), "aten::_fused_adamw_"),
    "foreach SGD": (lambda m: optimizer_step(m, torch.optim.SGD, foreach=True), "aten::_foreach_add_"),
    "for-loop SGD": (lambda m: optimizer_step(m, torch.optim.SGD, foreach=False), "aten::add_"),
    ".data": (lambda m: m[0].weight.data.clamp_(-0.01, 0.01), "aten::clamp_"),
    "dlpack": (lambda m: torch.from_dlpack(m[0].weight.detach()).add_(1), "aten::add_"),  # type: ignore[attr-defined]
    "flat alias": (flat_write, "aten::add_"),
    "one element": (lambda m: m[0].weight.data[1:2, 3].fill_(7), "aten::fill_"),
    "out=": (lambda m: torch.add(m[0].weight.data, 1, out=m[0].weight.data), "aten::add"),  # type: ignore[arg-type]
    "load_state_dict": (
        lambda m: m[0].load_state_dict({k: v + 1 for k, v in m[0].state_dict().items()}),
        "aten::copy_",
    ),
    "batch norm": (lambda m: m(torch.randn(5, 4)), "aten::native_batch_norm"),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_write_is_named(kind: str) -> None:
    """Whatever is dispatched: fused, foreach, `.data`, aliases, and BatchNorm, whose schema hides that it writes."""
    how, operation = WRITES[kind]
    assert write(net(), how) == [operation]


def test_the_line_is_the_callers() -> None:
    """Not torch's, not ours: the line of the loop."""
    model = net()
    with Witness(model, freeze=["0.weight"], guard=True) as w:
        optimizer_step(model, torch.optim.AdamW)
        w.step()
    (violation,) = w.report().violations
    assert violation.operation is not None
    assert "tests/worker/trainer/witness/test_guard.py:" in violation.operation
    assert violation.operation.endswith(" in optimizer_step")


def test_the_guard_dates_exactly() -> None:
    """With the guard on, a write in step 7 is between steps 6 and 7, whatever the budget and the counter."""
    model = net()
    with Witness(model, freeze=["0.weight"], guard=True, budget=0.0) as w:
        for step in range(1, 10):
            if step == 7:
                optimizer_step(model, torch.optim.AdamW, fused=True)
            w.step()
    (violation,) = w.report().violations
    assert (violation.last_good_step, violation.first_bad_step) == (6, 7)


def test_writes_that_change_nothing_or_something_else_are_no_hits() -> None:
    """A copy onto itself, neighbours in the same storage, reads, the other weights."""

    def harmless(model: nn.Sequential) -> None:
        weight = model[0].weight.data
        weight.copy_(weight.clone())
        model[2].weight.data.add_(1)
        (weight + 1).add_(1)
        model.eval()(torch.randn(2, 4))

    assert write(net(), harmless) == []
    flat = torch.zeros(8)
    a, b = flat[:4], flat[4:]
    with WriteGuard({"a": a}, lambda name: bool(a.any())) as guard:
        b.add_(1)
        assert not guard.writes
        flat.add_(1)
    assert guard.writes["a"].operation == "aten::add_"


def test_overlapping_tensors_are_both_blamed() -> None:
    """Two views of one memory that overlap without being the same."""
    flat = torch.zeros(8)
    views = {"a": flat[:5], "b": flat[3:], "c": flat[7:]}
    with WriteGuard(views, lambda name: bool(views[name].any())) as guard:
        flat[4] = 1.0
    assert set(guard.writes) == {"a", "b"}
