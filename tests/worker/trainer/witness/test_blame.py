"""A replay under the write-guard names the operation that moved a tensor, or says why it cannot."""

import copy
import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.worker.trainer.witness.test_guard import net
from worker.trainer.witness import Witness


def moved_in_step_three(write: Callable[[Tensor], Any]) -> tuple[Witness, Callable[[], None]]:
    """A run in which `write` hits a frozen weight in step 3, and the replay of it from the beginning."""
    model = net()
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)

    def run(tell: Callable[[], Any]) -> None:
        for step in range(1, 5):
            model.eval()(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            if step == 3:
                write(model[0].weight.detach())
            tell()

    with Witness(model, freeze=["0.weight"], budget=0.0) as w:
        run(w.step)

    def replay() -> None:
        model.load_state_dict(start)
        run(lambda: None)

    return w, replay


def test_blame_names_step_and_operation() -> None:
    """The check saw it between steps 2 and 4; the replay says what did it, and the report then has it."""
    w, replay = moved_in_step_three(lambda weight: weight.data.mul_(2))
    (found,) = w.blame(replay, start=0)
    assert (found.name, found.operation) == ("0.weight", "aten::mul_")
    assert found.step == 4  # written after the third update: on the way to the fourth
    assert str(w.report().violations[0].operation).startswith("aten::mul_ at ")


def test_blame_says_when_the_write_was_outside() -> None:
    """ctypes writes past the dispatcher: the bytes moved, no operation did it."""
    w, replay = moved_in_step_three(lambda weight: ctypes.memset(weight.data_ptr(), 7, 4))
    (found,) = w.blame(replay, start=0)
    assert found.operation is None
    assert "outside torch's dispatcher" in found.explanation


def test_blame_says_when_the_replay_shows_nothing() -> None:
    """A write that does not happen again is not explained away."""
    once = iter([True])
    w, replay = moved_in_step_three(lambda weight: weight.data.mul_(2) if next(once, False) else None)
    (found,) = w.blame(replay, start=0)
    assert found.operation is None
    assert "did not show it" in found.explanation


def test_blame_says_when_another_tensor_was_put_in_place() -> None:
    """An assignment is no operation on the old memory."""
    model = net()
    start = copy.deepcopy(model.state_dict())

    def replace() -> None:
        model[0].weight = nn.Parameter(torch.ones(4, 4))

    with Witness(model, freeze=["0.weight"]) as w:
        replace()
        w.step()

    def replay() -> None:
        model.load_state_dict(start)
        replace()

    (found,) = w.blame(replay)
    assert "it was replaced by another tensor" in found.explanation


def test_blame_without_violations_replays_nothing() -> None:
    """There is nothing to explain."""
    with Witness(net(), freeze=["0.weight"]) as w:
        w.step()

    def replay() -> None:
        raise AssertionError("replayed")

    assert w.blame(replay) == []
