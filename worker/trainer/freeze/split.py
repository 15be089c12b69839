"""A partly frozen tensor: trainable rows as parameters of their own, joined to the frozen rest on every read.

The rows are views of the whole tensor, so an optimizer's write is in the state_dict at once, under its own name.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class SplitParameter:
    """`whole` stays where it was and takes no gradient; `slices` are what the optimizer gets."""

    def __init__(self, whole: nn.Parameter, ranges: Sequence[tuple[int, int]]) -> None:
        self.whole = whole
        self.ranges = tuple(ranges)
        self.slices = [nn.Parameter(whole.data[start:stop]) for start, stop in self.ranges]

    def joined(self) -> Tensor:
        """The whole tensor with gradient flowing to the trainable rows only. [rows, ...]"""
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
        """Follow the whole tensor to new memory; the slices stay the same objects, so the optimizer keeps them."""
        self.whole = whole
        for (start, stop), rows in zip(self.ranges, self.slices, strict=True):
            rows.data = whole.data[start:stop]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SplitParameter":
        """Views into the copy of the whole: copying the slices by themselves would tear them off."""
        if id(self) not in memo:
            memo[id(self)] = SplitParameter(deepcopy(self.whole, memo), self.ranges)
        copied: SplitParameter = memo[id(self)]
        return copied
