"""The shape of a result in any batch, worked out from two passes with batches of different size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Rows and width in tokens (0 without tokens) of the two batches that a model was tried with."""

    rows: tuple[int, int]
    width: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor's sizes, each a number, "rows", or "width", which is the batch's width plus `more`."""

    sizes: tuple[int | str, ...]
    more: int = 0

    @property
    def row_first(self) -> bool:
        return bool(self.sizes) and self.sizes[0] == "rows" and "rows" not in self.sizes[1:]

    @property
    def ragged(self) -> int | None:
        """The dimension that has the batch's width, None without one."""
        return self.sizes.index("width") if "width" in self.sizes else None

    @property
    def storable(self) -> bool:
        """Whether it can be stored row by row, each row as long as its own example."""
        return self.row_first and self.sizes.count("width") <= 1 and self.more >= 0

    def filled(self, rows: int, width: int) -> tuple[int, ...]:
        by_name = {"rows": rows, "width": width + self.more}
        return tuple(by_name[size] if isinstance(size, str) else size for size in self.sizes)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor that a served call returns. `kept`: the loss depends on its values, so they are stored."""

    shape: Shape
    dtype: torch.dtype
    kept: bool


def shape_of(first: Tensor, second: Tensor, batches: BatchSizes) -> Shape | None:
    """The shape of a result by its tensors in two passes; None if it depends on the batch in another way.

    With batches of 2 rows of 16 tokens and 3 rows of 15 tokens, (2, 16, 64) and (3, 15, 64) are ("rows", "width", 64).
    """
    if first.ndim != second.ndim:
        return None
    sizes: list[int | str] = []
    more: set[int] = set()
    narrower_by = batches.width[0] - batches.width[1]
    for one, other in zip(first.shape, second.shape, strict=True):
        if (one, other) == batches.rows:
            sizes.append("rows")
        elif one == other:
            sizes.append(one)
        elif batches.width[0] and one - other == narrower_by:
            sizes.append("width")
            more.add(one - batches.width[0])
        else:
            return None
    return Shape(tuple(sizes), more.pop() if more else 0) if len(more) <= 1 else None
