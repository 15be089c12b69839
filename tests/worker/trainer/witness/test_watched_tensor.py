"""A watched tensor knows when its freeze begins and ends, and says in words how it differs."""

import torch
from torch import nn

from app.freeze.plan import Decision, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.watched_tensor import WatchedTensor, first_difference

PRINTS = Fingerprints(bytes(16))


def decision(model: nn.Module, **rule: object) -> Decision:
    rule = {"id": "r", "action": "freeze", "select": {"name": "weight"}} | rule
    return resolve(Policy.from_json({"rules": [rule]}), tensors(model)).decision("weight")


def opened(model: nn.Module, chosen: Decision) -> WatchedTensor:
    watched = WatchedTensor("weight", chosen)
    watched.known = watched.fingerprints(model.get_parameter("weight"), PRINTS)
    return watched


def test_a_schedule_opens_and_closes_it() -> None:
    """It begins with the update after `from_step` and ends with the update number `to_step`."""
    model = nn.Linear(2, 2)
    watched = WatchedTensor("weight", decision(model, when=[{"from_step": 2, "to_step": 4}]))
    assert [step for step in range(6) if watched.begins(step)] == [2, 3]
    watched.known = watched.fingerprints(model.weight, PRINTS)
    assert watched.open and not watched.begins(2)
    assert [step for step in range(6) if watched.ends(step)] == [4]
    watched.close()
    assert not watched.open and not watched.ends(4)


def test_only_frozen_rows_are_compared() -> None:
    """One fingerprint for each range of frozen rows; another row may move."""
    model = nn.Linear(3, 4)
    watched = opened(model, decision(model, select={"name": "weight", "rows": [[0, 1], [2, 4]]}))
    assert len(watched.known) == 2
    with torch.no_grad():
        model.weight[1] += 1
    assert watched.difference(model.weight, PRINTS) is None
    with torch.no_grad():
        model.weight[3] += 1
    assert watched.difference(model.weight, PRINTS) == "bytes changed"


def test_a_difference_is_said_in_words() -> None:
    """Bytes, dtype, shape; and a tensor of which frozen rows cannot be cut any more has another shape."""
    model = nn.Linear(3, 4)
    watched = opened(model, decision(model))
    assert watched.difference(model.weight.detach().half(), PRINTS) == (
        "dtype changed from torch.float32 to torch.float16"
    )
    assert watched.difference(model.weight[:2], PRINTS) == "shape changed from [4, 3] to [2, 3]"
    rows = opened(model, decision(model, select={"name": "weight", "rows": [[0, 1], [2, 4]]}))
    assert rows.difference(model.weight[:2], PRINTS) == "shape changed"
    assert first_difference(watched.known, watched.known) is None


def test_the_state_goes_into_a_checkpoint() -> None:
    """A restored one knows the bytes, the last good step and that it was violated."""
    model = nn.Linear(2, 2)
    watched = opened(model, decision(model))
    watched.last_good, watched.violated = 5, True
    restored = WatchedTensor("weight", watched.decision)
    restored.load_state_dict(watched.state_dict())
    assert (restored.known, restored.last_good, restored.violated) == (watched.known, 5, True)
    assert restored.difference(model.weight, PRINTS) is None
