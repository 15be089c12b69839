"""Every known way in which frozen weights change, in audit mode through the real witness; and what must stay silent."""

from collections.abc import Callable
from functools import partial

import pytest

from tests.leaks import aliases, forwards, optimizers, processes, silence, storing
from tests.leaks.gauntlet import CONTROLS, LEAKS, Control, Leak
from worker.trainer.witness import Witness

CATALOGUE = (optimizers, forwards, aliases, storing, processes, silence)  # importing them fills the two lists

# Every row of the catalogue; a case may add a variant to a row's id.
# fmt: off
ROWS = {
    "O1", "O2", "O3", "O3d", "O4", "O5", "O6", "O7", "O8", "O9", "O11", "O12", "O13", "O14", "O15", "O16", "O17", "O19",
    "O20", "O21", "O22", "F1", "F1b", "F1d", "F1f", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F12",
    "A1", "A2", "A3", "A4", "A5", "A6", "A7", "D1", "D2", "D3", "D4", "D6", "D7", "D8", "D9", "D10", "D11", "D12",
    "D13", "D14", "D15", "D16", "P1", "P2", "P3", "P4", "X1", "X2", "X3", "X4", "X5",
}
# fmt: on


@pytest.mark.parametrize("case", LEAKS, ids=lambda case: case.id)
def test_a_leak_is_reported(case: Leak, record_property: Callable[[str, object], None]) -> None:
    """The right tensors and no others, from the right step; on the default budget at least between the right ones."""
    record_property("leak", case.id)
    closely = list(case.play(partial(Witness, budget=1.0)))
    assert {violation.name for violation in closely} == case.moved
    if case.step is not None:
        assert {(v.last_good_step, v.first_bad_step) for v in closely} == {(case.step - 1, case.step)}
    within_budget = list(case.play(partial(Witness, budget=0.01)))
    assert {violation.name for violation in within_budget} == case.moved
    if case.step is not None:
        assert all(v.last_good_step < case.step <= v.first_bad_step for v in within_budget)


# peft asks transformers by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("case", CONTROLS, ids=lambda case: case.id)
def test_a_control_is_silent(case: Control, record_property: Callable[[str, object], None]) -> None:
    """No violation, however closely the witness looks."""
    record_property("control", case.id)
    for budget in (1.0, 0.01):
        assert list(case.play(partial(Witness, budget=budget))) == []


def test_every_row_of_the_catalogue_is_played() -> None:
    """No row is left out, and no id is played twice."""
    ids = [case.id for case in LEAKS] + [case.id for case in CONTROLS]
    assert len(ids) == len(set(ids))
    assert {id.split()[0].rstrip(",") for id in ids} >= ROWS
