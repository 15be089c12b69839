"""When to compare bytes: at a few early steps, so that a leak from the first step is dated, then as the budget allows.

The budget is a share of training time. Every check counts against it, also those that have to be made (the first one,
at checkpoints, at the end). Another one is due when the time spent so far, this check, and the last one still to come
stay within the share. At the early steps only some of the tensors are compared, so that this takes a millisecond.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

EARLY = frozenset({1, 2, 4, 8})
# An early check takes about a millisecond: so many bytes on a CPU, so many tensors on a device.
EARLY_BYTES, EARLY_TENSORS = 8 << 20, 64

MARGIN = 0.9  # of the share, since the last check may take longer than those before it


@dataclass(slots=True)
class Budget:
    """`share` is the fraction of training time that checks may take; 1 or more means a check after every step."""

    share: float
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)
    spent: float = 0.0  # seconds
    cost: float = 0.0  # seconds of the slowest full check of late

    def __post_init__(self) -> None:
        self.started = self.clock()

    def early(self, step: int) -> bool:
        return step in EARLY

    def due(self) -> bool:
        if self.share >= 1:
            return True
        training = self.clock() - self.started - self.spent
        return self.spent + 2 * self.cost <= MARGIN * self.share * training

    def record(self, seconds: float) -> None:
        """Count a full check. One that was slow because the machine was busy loses its weight over time."""
        self.spent += seconds
        self.cost = max(seconds, 0.9 * self.cost)


def early_names(nbytes: Mapping[str, int], turn: int) -> list[str]:
    """The tensors of early check number `turn`: at least one, small ones first, and each time others."""
    names = sorted(nbytes, key=lambda name: (nbytes[name], name))
    start = turn * EARLY_TENSORS % len(names) if len(names) > EARLY_TENSORS else 0
    chosen: list[str] = []
    bytes_left = EARLY_BYTES
    for name in (*names[start:], *names[:start])[:EARLY_TENSORS]:
        if chosen and nbytes[name] > bytes_left:
            continue
        chosen.append(name)
        bytes_left -= nbytes[name]
    return chosen
