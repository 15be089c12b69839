"""A partly frozen tensor: trainable rows are parameters of their own, joined to the frozen rest on every read.

The rows are views of the whole tensor, so the state_dict shows an optimizer's write at once, under the usual name.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class SplitParameter:
    """A parameter `whole` that takes no gradient, and `slices`, views of its trainable rows, for the optimizer."""

    def __init__(self, whole: nn.Parameter, ranges: Sequence[tuple[int, int]]) -> None:
        self.whole = whole
        self.ranges = tuple(ranges)
        self.slices = [nn.Parameter(whole.data[start:stop]) for start, stop in self.ranges]

    def joined(self) -> Tensor:
        """The whole tensor, (rows, ...), through which gradient flows to the trainable rows only."""
        frozen = self.whole.detach()
        pieces: list[Tensor] = []
        reached = 0
        for (start, stop), rows in zip(self.ranges, self.slices, strict=True):
            if reached < start:
                pieces.append(frozen[reached:start])
            pieces.append(rows)
            reached = stop
        if reached < frozen.shape[0]:
            pieces.append(frozen[reached:])
        return torch.cat(pieces)

    def rebind(self, whole: nn.Parameter) -> None:
        """Points the slices at the whole tensor's new memory; they stay the objects that the optimizer has."""
        self.whole = whole
        for (start, stop), rows in zip(self.ranges, self.slices, strict=True):
            rows.data = whole.data[start:stop]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SplitParameter":
        """A copy whose slices are views of the copied tensor; by default they would become tensors of their own."""
        if id(self) not in memo:
            memo[id(self)] = SplitParameter(deepcopy(self.whole, memo), self.ranges)
        copied: SplitParameter = memo[id(self)]
        return copied
