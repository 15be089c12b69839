"""Tables of numbers as two tensors, features and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worker.trainer.data.batch import Batch
from worker.trainer.data.sampler import Positions
from worker.trainer.data.table import Table


class TabularExamples:
    """Features `x` (examples, features); targets `y` (examples, outputs) for regression, (examples,) for classes."""

    lengths = None

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return self.x.shape[0]

    def batch(self, positions: Positions) -> Batch:
        rows = torch.from_numpy(positions)
        targets = self.y.index_select(0, rows)
        x = self.x.index_select(0, rows)
        return Batch({"x": x}, targets, weight=targets.numel(), examples=len(positions), rows=positions)

    def outline(self, positions: Positions) -> Batch:
        return self.batch(positions)  # gathering a few numbers is no work


def encode(rows: Sequence[Mapping[str, Any]], *, classes: bool, dtype: torch.dtype) -> TabularExamples:
    """Encodes rows {"x": [numbers], "y": [numbers]}, or {"x": [numbers], "y": index} where `classes`."""
    table = rows if isinstance(rows, Table) else Table.of(rows)
    return TabularExamples(
        torch.from_numpy(table.x).to(dtype), torch.from_numpy(table.y).to(torch.int64 if classes else dtype)
    )
