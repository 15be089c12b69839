"""Schedules that a run would not carry out."""

from typing import Any

import pytest

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from app.freeze.schedules import refuse_stopping_early, refuse_unreached
from app.freeze.tensors import TensorInfo


def plan(*when: tuple[int, int | None], enforce: bool = True) -> FreezePlan:
    steps = [{"from_step": start, "to_step": end} for start, end in when]
    rule: dict[str, Any] = {"id": "late", "action": "freeze", "select": {"name": "0.**"}} | (
        {"when": steps} if when else {}
    )
    rows: list[dict[str, Any]] = [{"name": f"{n}.weight", "shape": [2, 2], "dtype": "F32"} for n in range(2)]
    tensors = [TensorInfo.from_json({**row, "module_types": ["Linear"]}) for row in rows]
    return resolve(Policy.from_json({"rules": [rule], "enforce": enforce}), tensors)


def test_a_freeze_that_the_run_never_reaches_is_refused() -> None:
    """Of a run of ten steps: a freeze that begins at the tenth is kept, one that begins later would never be."""
    refuse_unreached(plan((0, 2), (9, None)), 10)
    with pytest.raises(PolicyError, match=r"rule 'late' freezes '0\.weight' from step 10, and the run has 10 steps"):
        refuse_unreached(plan((0, 2), (10, None)), 10)
    refuse_unreached(plan((10, None), enforce=False), 10)


def test_early_stopping_and_a_schedule_exclude_each_other() -> None:
    """The run would end in a state from before the freeze; a freeze of the whole run has none."""
    refuse_stopping_early(plan((1, None)), None)
    refuse_stopping_early(plan(), 3)
    with pytest.raises(InvalidRequest, match=r"freeze '0\.weight' for the whole run") as refused:
        refuse_stopping_early(plan((1, None)), 3)
    assert refused.value.param == "hyperparameters.early_stopping_patience"
