"""Rows of similar length: the best cuts, and none where cuts cost more than padding."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from worker.trainer.padding.groups import by_length


def cost(groups: list[list[int]], *, fixed: int, power: int) -> float:
    return sum(len(each) * max(each) ** power + fixed for each in groups)


@given(some.lists(some.integers(1, 60), min_size=1, max_size=7), some.integers(0, 200), some.sampled_from([1, 2]))
def test_no_other_cuts_cost_less(lengths: list[int], fixed: int, power: int) -> None:
    found = by_length(np.array(lengths), fixed=fixed, power=power)
    assert sorted(int(at) for group in found for at in group) == list(range(len(lengths)))
    groups = [[lengths[at] for at in group] for group in found]
    assert [length for group in groups for length in group] == sorted(lengths)

    ordered = sorted(lengths)
    others = []
    for count in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), count):
            edges = [0, *cuts, len(lengths)]
            others.append([ordered[a:b] for a, b in pairwise(edges)])
    assert cost(groups, fixed=fixed, power=power) == pytest.approx(
        min(cost(each, fixed=fixed, power=power) for each in others)
    )


def test_cuts_that_cost_much_are_few() -> None:
    lengths = np.array([3, 200, 4, 190])
    assert [len(each) for each in by_length(lengths, fixed=64)] == [2, 2]
    assert [len(each) for each in by_length(lengths, fixed=100_000)] == [4]
