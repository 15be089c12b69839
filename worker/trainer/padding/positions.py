"""Which positions of a padded array are real, and the way there and back, each the other's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True, eq=False)
class RealPositions:
    """`padded` (n,) has the padded position of each real one; `compact` (positions,) the reverse, n for padding."""

    padded: Tensor
    compact: Tensor

    @classmethod
    def of(cls, padded: NDArray[np.int64], size: int, device: torch.device) -> RealPositions:
        """`size` is how many positions there are with padding."""
        compact = np.full(size, len(padded), dtype=np.int64)
        compact[padded] = np.arange(len(padded))
        return cls(torch.from_numpy(padded).to(device), torch.from_numpy(compact).to(device))

    def remove(self, values: Tensor) -> Tensor:
        """(positions, ...) to (n, ...)."""
        removed: Tensor = _Remove.apply(values, self.padded, self.compact)  # type: ignore[no-untyped-call]
        return removed

    def fill(self, values: Tensor) -> Tensor:
        """(n, ...) to (positions, ...), with zeros for padding."""
        filled: Tensor = _Fill.apply(values, self.padded, self.compact)  # type: ignore[no-untyped-call]
        return filled


class _Remove(torch.autograd.Function):
    """Both directions look up rows, which is faster than adding them to an array of zeros, as autograd would."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, padded: Tensor, compact: Tensor) -> Tensor:
        ctx.save_for_backward(compact)
        return values.index_select(0, padded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (compact,) = ctx.saved_tensors
        return _filled(gradient, compact), None, None


class _Fill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, padded: Tensor, compact: Tensor) -> Tensor:
        ctx.save_for_backward(padded)
        return _filled(values, compact)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (padded,) = ctx.saved_tensors
        return gradient.index_select(0, padded), None, None


def _filled(values: Tensor, compact: Tensor) -> Tensor:
    zeros = values.new_zeros(1, *values.shape[1:])
    return torch.cat([values, zeros]).index_select(0, compact)
