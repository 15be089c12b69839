"""Policies under DistributedDataParallel, in two processes over gloo: what fits its reducer, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from app.errors import PolicyError
from tests.worker.trainer.freeze.training import plan_for
from tests.worker.trainer.gloo import on_ranks
from worker.trainer.freeze.apply import Frozen, freeze, refuse
from worker.trainer.witness.observe import observe

FROZEN = ["1.**", "2.**"]
ROWS = {"rules": [{"action": "freeze", "select": {"name": "0.weight", "rows": [[0, 4]]}}]}
STEPS = 3


def whole(mechanism: str) -> dict[str, Any]:
    return {"freeze": FROZEN, "mechanism": mechanism}


def scheduled(start: int, stop: int) -> dict[str, Any]:
    when = [{"from_step": start, "to_step": stop}]
    return {"rules": [{"action": "freeze", "select": {"name": "1.**"}, "when": when}]}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def trained(rank: int | None, policy: dict[str, Any], options: dict[str, Any], *, careful: bool) -> dict[str, Any]:
    """Final digests, and the policy's tensors that held a gradient; half of each batch per rank, all of it without."""
    model = net()
    plan = plan_for(model, policy)
    frozen = freeze(model, plan)
    optimizer = torch.optim.SGD(frozen.parameters(), lr=0.1)
    frozen.at_step(0, optimizer)
    running = model if rank is None else DistributedDataParallel(model, **options)
    if careful:
        refuse(running, plan, optimizer)
    before = observe(model)
    held = _steps(running, frozen, optimizer, rank)
    after = observe(model)
    close = {name: tensor.double().sum().item() for name, tensor in model.state_dict().items()}
    return {"after": after, "kept": {n for n in after if after[n] == before[n]}, "held": held, "sums": close}


def _steps(running: nn.Module, frozen: Frozen, optimizer: torch.optim.Optimizer, rank: int | None) -> set[str]:
    held: set[str] = set()
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        batch = torch.randint(0, 8, (8,))
        mine = batch if rank is None else batch[rank * 4 : rank * 4 + 4]
        running(mine).square().mean().backward()
        still = {d.name for d in frozen.plan.frozen}
        held |= {n for n, p in frozen.model.named_parameters() if n in still and p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        frozen.at_step(step + 1, optimizer)
    return held


def on_two(policy: dict[str, Any], *, careful: bool = False, **options: Any) -> list[Any]:
    """What each rank found, or the error that it ended with."""

    def work(rank: int) -> Any:
        try:
            return trained(rank, policy, options, careful=careful)
        except (PolicyError, RuntimeError) as error:
            return str(error)

    return on_ranks(work)


@pytest.mark.parametrize(
    ("mechanism", "options"),
    [("requires_grad", {}), ("detach", {"find_unused_parameters": True})],
    ids=["requires_grad", "detach"],
)
def test_what_fits_trains_as_one_process_does(mechanism: str, options: dict[str, Any]) -> None:
    """Not refused; both ranks end with the same bits, the frozen ones untouched, the others as over the whole batch."""
    first, second = on_two(whole(mechanism), careful=True, **options)
    alone = trained(None, whole(mechanism), {}, careful=True)
    assert first == second
    assert first["kept"] == {"1.weight", "1.bias", "2.weight", "2.bias"} == alone["kept"]
    assert first["held"] == set()
    assert first["sums"] == pytest.approx(alone["sums"], abs=1e-5)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (ROWS, "has trainable rows"),
        (scheduled(0, 2), "frozen for some steps only"),
        (scheduled(1, 2), "frozen for some steps only"),
        (whole("detach"), "find_unused_parameters=True"),
        (whole("param_group"), "gradients back"),
    ],
    ids=["rows", "thaws", "freezes", "detach", "param_group"],
)
def test_what_does_not_fit_is_refused(policy: dict[str, Any], words: str) -> None:
    """By both ranks, before the first step."""
    for message in on_two(policy, careful=True):
        assert words in message


@pytest.mark.parametrize("policy", [ROWS, scheduled(0, 2)], ids=["rows", "thaws"])
def test_refused_policies_would_train_apart(policy: dict[str, Any]) -> None:
    """Without the refusal nothing fails, and the ranks end with different weights."""
    first, second = on_two(policy)
    assert first["after"] != second["after"]


@pytest.mark.parametrize("policy", [whole("detach"), scheduled(1, 2)], ids=["detach", "freezes"])
def test_refused_policies_would_stop(policy: dict[str, Any]) -> None:
    """Without the refusal, the reducer waits for gradients that never come."""
    assert all("find_unused_parameters" in str(error) for error in on_two(policy))


def test_reducer_puts_dropped_gradients_back() -> None:
    """Why param_group is refused: the bits stay, but frozen weights hold gradients for anyone to clip by."""
    first, second = on_two(whole("param_group"))
    assert first["held"] == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert first["kept"] == second["kept"] == first["held"]
