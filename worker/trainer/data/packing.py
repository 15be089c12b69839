"""Packing: several examples of a micro-batch share a row, in the space that padding would take.

Rows are as wide as the longest example. `position_ids` restart at 0 with each example; transformers reads that as a
boundary and lets no example attend to another. Lengths 5, 3, 2 become two rows of width 5: [5] and [3, 2].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.trainer.data.batch import IGNORED
from worker.trainer.data.language_example import LanguageExample


def pack(examples: Sequence[LanguageExample], *, pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs (input_ids, position_ids) and targets, each (rows, width). An example's first token is never a target."""
    lengths = [len(each.tokens.ids) for each in examples]
    rows = share(lengths)
    ids = np.full((len(rows), max(lengths)), pad, dtype=np.int64)
    positions = np.zeros_like(
        ids
    )  # 0 for padding: each pad token counts as an example of its own, which none attends to
    targets = np.full_like(ids, IGNORED)

    for row, members in enumerate(rows):
        start = 0
        for at in members:
            span = slice(start, start + lengths[at])
            ids[row, span] = examples[at].tokens.ids
            positions[row, span] = np.arange(lengths[at])
            targets[row, span] = examples[at].targets
            targets[row, start] = IGNORED
            start = span.stop

    inputs = {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(positions)}
    return inputs, torch.from_numpy(targets)


def share(lengths: Sequence[int]) -> list[list[int]]:
    """Rows as lists of example indices: the longest example first, each into the first row with room (first fit)."""
    width = max(lengths)
    rows: list[list[int]] = []
    room: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        row = next((row for row, left in enumerate(room) if left >= lengths[at]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(at)
        room[row] -= lengths[at]
    return rows
