"""Measurements of several ranks in the order of the data."""

import torch

from worker.trainer.ranks.group import ALONE
from worker.trainer.training.meters import in_turns, merged
from worker.trainer.training.objectives import MarginMeter


def test_ranks_take_turns() -> None:
    """Also where the last ranks have one less, and where an entry is None."""
    assert in_turns([[0, 3, 6], [1, 4], [2, None]]) == [0, 1, 2, 3, 4, None, 6]  # type: ignore[arg-type]


def test_one_ranks_meter_is_its_own() -> None:
    meter = MarginMeter([torch.ones(2)])
    assert merged(ALONE, meter) is meter
