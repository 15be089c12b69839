"""Packing: examples of a micro-batch side by side in rows as wide as the longest of them, where else padding would be.

Positions begin at 0 with every example; transformers sees that and lets no example attend to another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.trainer.data.batch import IGNORED
from worker.trainer.data.language_example import LanguageExample


def pack(passages: Sequence[LanguageExample], *, pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """input_ids and position_ids, and targets, each (rows, width). What comes before an example predicts none of it."""
    lengths = [len(each.tokens.ids) for each in passages]
    shared = share(lengths)
    ids = np.full((len(shared), max(lengths)), pad, dtype=np.int64)
    places = np.zeros_like(ids)  # padding is at 0 throughout: every pad token an example of its own, seen by none
    targets = np.full_like(ids, IGNORED)
    for row, members in enumerate(shared):
        start = 0
        for at in members:
            span = slice(start, start + lengths[at])
            ids[row, span] = passages[at].tokens.ids
            places[row, span] = np.arange(lengths[at])
            targets[row, span] = passages[at].targets
            targets[row, start] = IGNORED
            start = span.stop
    inputs = {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(places)}
    return inputs, torch.from_numpy(targets)


def share(lengths: Sequence[int]) -> list[list[int]]:
    """Which examples share a row: the longest first, each into the first row with room for it."""
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
