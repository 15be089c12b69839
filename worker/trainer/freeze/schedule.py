"""Which updates a tensor sits out, and what an optimizer must forget when a freeze begins.

Momentum from before would move a frozen weight on (and, after a thaw, push it with stale history), so each freeze drops
the gradient and the optimizer's state, and takes the tensor out of its group until it thaws.
"""

from collections.abc import Collection

from torch import nn
from torch.optim import Optimizer

from app.freeze.plan import Decision


def frozen_after(decision: Decision, step: int) -> bool:
    """Whether the update that follows the state after `step` leaves the tensor alone: (a, b] freezes a+1 to b."""
    return any(start <= step and (stop is None or step < stop) for start, stop in decision.intervals)


class Groups:
    """An optimizer's groups as they were built, so that a thawed tensor returns to its own place in its own group."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.full = [list(group["params"]) for group in optimizer.param_groups]

    def keep_out(self, frozen: Collection[nn.Parameter]) -> None:
        """Leave exactly these out; their state goes with them. Tensors that return start without history."""
        out = {id(parameter) for parameter in frozen}
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["params"][:] = [parameter for parameter in full if id(parameter) not in out]
        for parameter in frozen:
            parameter.grad = None
            self.optimizer.state.pop(parameter, None)
