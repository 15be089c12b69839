"""The learning rate as a pure function of the step, so that a checkpoint need not save it."""

from __future__ import annotations

import math


def factor(step: int, *, total: int, warmup: int, kind: str, floor: float = 0.0) -> float:
    """The factor of the peak rate for update `step` (from 1) of `total`: it rises to 1, then falls to `floor`."""
    if step <= warmup:
        return step / (warmup + 1)
    if kind == "constant":
        return 1.0
    done = min(1.0, (step - 1 - warmup) / max(1, total - warmup))
    left = 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return floor + (1.0 - floor) * left
