"""When to look at the bytes: a little early, so that a leak from the first step is dated, then as often as allowed.

The share is one of training time, from the start: every look counts against it, also those that have to be made (the
first, at checkpoints, at the end). Others are due when what has been spent, this one, and the last one that is still
to come stay under it. In between, at a few early steps, some of the tensors are looked at, however long a look at all
would take.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

EARLY = frozenset({1, 2, 4, 8})
# What an early look covers: about a millisecond's worth on a CPU, and as many tensors as a device is asked about fast.
EARLY_BYTES, EARLY_TENSORS = 8 << 20, 64

MARGIN = 0.9  # of the share: the last look may take longer than those before it


@dataclass(slots=True)
class Budget:
    """`share` of training time, 0.01 for one per cent. 1 or more means after every step."""

    share: float
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)
    spent: float = 0.0  # seconds
    cost: float = 0.0  # seconds of the dearest look at everything lately

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
        """A look at everything. One slow look (a busy machine) is forgotten by and by."""
        self.spent += seconds
        self.cost = max(seconds, 0.9 * self.cost)


def some(nbytes: Mapping[str, int], turn: int) -> list[str]:
    """Names for the early look number `turn`: others at each, small ones first, one at the least."""
    names = sorted(nbytes, key=lambda name: (nbytes[name], name))
    start = turn * EARLY_TENSORS % len(names) if len(names) > EARLY_TENSORS else 0
    chosen: list[str] = []
    left = EARLY_BYTES
    for name in (*names[start:], *names[:start])[:EARLY_TENSORS]:
        if chosen and nbytes[name] > left:
            continue
        chosen.append(name)
        left -= nbytes[name]
    return chosen
