"""Freezes that begin and end, ties, and comparison with other tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from app.freeze.plan import resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.guard import Write
from worker.trainer.witness.live_names import live_tensors
from worker.trainer.witness.watchlist import Watchlist

ROWS = {"rules": [{"id": "r", "action": "freeze", "select": {"name": "0.weight", "rows": [[1, 3]]}}]}


def watchlist(model: nn.Module, policy: dict[str, Any], *, step: int = 0) -> Watchlist:
    plan = resolve(Policy.from_json({"enforce": False, **policy}), tensors(model))
    watched = Watchlist(plan, Fingerprints(bytes(16)), None, step=step)
    watched.open_freezes(live_tensors(model), step)
    return watched


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def test_only_frozen_rows_count() -> None:
    """Writing to another row is no violation; writing to a frozen one is, once."""
    model = net()
    watched = watchlist(model, ROWS)
    with torch.no_grad():
        model[0].weight[0] += 1
    assert watched.check(["0.weight"], live_tensors(model), 1) == []
    with torch.no_grad():
        model[0].weight[2] += 1
    (violation,) = watched.check(["0.weight"], live_tensors(model), 2)
    assert (violation.last_good_step, violation.first_bad_step) == (1, 2)
    assert watched.check(["0.weight"], live_tensors(model), 3) == []


def test_a_freeze_begins_and_ends_with_the_schedule() -> None:
    """Between two freezes the tensor may move, and each has the digests of its ends."""
    model = net()
    when = [{"from_step": 0, "to_step": 2}, {"from_step": 3, "to_step": 5}]
    rules = [{"id": "r", "action": "freeze", "select": {"name": "0.weight"}, "when": when}]
    watched = watchlist(model, {"rules": rules})
    live = live_tensors(model)
    assert watched.armed and watched.boundary_after(2) and not watched.boundary_after(1)
    watched.follow_schedule(live, 2)
    assert not watched.armed
    with torch.no_grad():
        model[0].weight += 1
    watched.follow_schedule(live, 3)
    assert watched.armed and watched.check(["0.weight"], live, 4) == []
    watched.end_intervals(live)
    first, second = watched.watched["0.weight"].intervals
    assert first.before == first.after and second.before == second.after and first.after != second.before
    assert (second.from_step, second.to_step) == (3, 5)


def test_compare_names_what_differs_and_what_is_missing() -> None:
    """Nothing is recorded by it."""
    model = net()
    watched = watchlist(model, {"freeze": ["0.**"]})
    found = watched.compare({"0.weight": model[0].weight + 1}, 7)  # type: ignore[dict-item]
    assert {violation.name: violation.what for violation in found} == {"0.weight": "bytes changed", "0.bias": "gone"}
    assert watched.check(watched.watched, live_tensors(model), 8) == []


def test_a_tie_is_checked_once_until_it_is_cut() -> None:
    """Both names are watched; the alias gets a check of its own when it has a tensor of its own."""
    model = net()
    model[1].weight = model[0].weight
    watched = watchlist(model, {"freeze": ["0.weight", "1.weight"]})
    assert set(watched.watched) == {"0.weight", "1.weight"}
    model[1].weight = nn.Parameter(model[1].weight.detach() + 1)
    violations = watched.check(watched.watched, live_tensors(model), 1)
    assert [violation.name for violation in violations] == ["1.weight"]


@dataclass
class Heard:
    """Writes that something noticed, for a watchlist to take."""

    writes: dict[str, Write | None]

    @property
    def pending(self) -> bool:
        return bool(self.writes)

    def take(self) -> dict[str, Write | None]:
        taken, self.writes = self.writes, {}
        return taken


def test_a_noticed_write_is_a_hint_with_a_cause() -> None:
    """No other sign is needed; a tensor whose bytes are equal is forgotten, and one that moved has its operation."""
    model = net()
    watched = watchlist(model, {"freeze": ["0.**"]})
    live = live_tensors(model)
    watched.writes = Heard({"0.weight": Write("0.weight", "numpy.add", "loop.py:3 in step"), "0.bias": None})
    assert sorted(watched.tripped()) == ["0.bias", "0.weight"]
    model[0].weight.detach().numpy()[0] += 1
    (violation,) = watched.check(watched.tripped(), live, 4)
    assert (violation.name, violation.operation) == ("0.weight", "numpy.add at loop.py:3 in step")
    assert (violation.last_good_step, violation.first_bad_step) == (3, 4)
    assert watched.tripped() == []

    model[0].bias.detach().numpy()[0] += 1
    (violation,) = watched.check(["0.bias"], live, 6)
    assert (violation.last_good_step, violation.first_bad_step, violation.operation) == (4, 6, None)


def test_a_write_after_the_last_look_is_after_its_step() -> None:
    """In an evaluation, for example: the step itself had been found good."""
    model = net()
    watched = watchlist(model, {"freeze": ["0.**"]})
    assert watched.check(watched.watched, live_tensors(model), 4) == []
    watched.writes = Heard({"0.bias": Write("0.bias", "aten::add_", "eval.py:9 in look")})
    model[0].bias.detach().numpy()[0] += 1
    (violation,) = watched.check(watched.watched, live_tensors(model), 4)
    assert (violation.last_good_step, violation.first_bad_step) == (4, 4)
    assert violation.operation == "aten::add_ at eval.py:9 in look"
