"""When to look at the bytes: early, so that a leak from the first step is dated exactly, then as often as allowed.

Early steps are always looked at. After that a check is due when what all checks have cost, this one included, stays
under the budget's share of the time that training itself took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

EARLY = frozenset({1, 2, 4, 8})


@dataclass(slots=True)
class Budget:
    """`share` of training time, 0.01 for one per cent. 1 or more means after every step."""

    share: float
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)
    spent: float = 0.0  # seconds
    cost: float = 0.0  # seconds of the dearest check lately

    def __post_init__(self) -> None:
        self.started = self.clock()

    def early(self, step: int) -> bool:
        return step in EARLY

    def due(self, step: int) -> bool:
        if self.early(step) or self.share >= 1:
            return True
        training = self.clock() - self.started - self.spent
        return self.spent + self.cost <= self.share * training

    def record(self, seconds: float) -> None:
        """A check's cost. One slow check (a busy machine) is forgotten by and by."""
        self.spent += seconds
        self.cost = max(seconds, 0.9 * self.cost)
