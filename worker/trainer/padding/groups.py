"""Rows of similar length put together, so that filling them up to one width costs little and groups stay few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def by_length(lengths: Indices, *, fixed: int, power: int = 1) -> list[Indices]:
    """Indices of the rows of each group, from the shortest rows to the longest.

    A group costs rows x width^power + `fixed`; the cuts make the sum least, and depend on the lengths alone.
    """
    order = np.argsort(lengths, kind="stable")
    costs = lengths[order].astype(np.float64) ** power
    least, cuts = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        begins = np.arange(end)
        totals = least[:end] + (end - begins) * costs[end - 1] + fixed
        cuts[end] = begin = int(totals.argmin())
        least[end] = totals[begin]

    groups, end = [], len(order)
    while end:
        groups.append(order[cuts[end] : end])
        end = int(cuts[end])
    return groups[::-1]
