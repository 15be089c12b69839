"""Scheduled freezes: which updates a tensor is left out of, and the optimizer state that a freeze drops.

Old momentum would keep moving a frozen weight, and push it with stale history after a thaw. So each freeze drops the
gradient and the optimizer's state, and takes the tensor out of its group until it thaws.
"""

from collections.abc import Collection

from torch import nn
from torch.optim import Optimizer

from app.freeze.plan import Decision


def frozen_after(decision: Decision, step: int) -> bool:
    """Whether update `step` + 1 leaves the tensor alone: the interval (a, b) freezes updates a+1 to b."""
    return any(start <= step and (stop is None or step < stop) for start, stop in decision.intervals)


class Groups:
    """The groups of an optimizer as they were built: a thawed tensor returns to its old position in its old group."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.full = [list(group["params"]) for group in optimizer.param_groups]

    def keep_out(self, frozen: Collection[nn.Parameter]) -> None:
        """Leaves exactly these out of their groups, without their state. Those that return start without momentum."""
        out = {id(parameter) for parameter in frozen}
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["params"][:] = [parameter for parameter in full if id(parameter) not in out]
        for parameter in frozen:
            parameter.grad = None
            self.optimizer.state.pop(parameter, None)
