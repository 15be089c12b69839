"""Where the tokens of one batch are once its padding is gone: in one row, sorted by the length of their sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.trainer.padding.groups import Indices, by_length
from worker.trainer.padding.positions import RealPositions

#: What one more call of attention costs: as much as the scores of a sequence of this many tokens.
FIXED = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True, slots=True, eq=False)
class AttentionGroup:
    """Sequences whose attention is computed together. `real` (rows, 1, 1, width) marks keys; None without padding."""

    rows: Tensor
    width: int
    real: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """A batch of `rows` x `width` positions, `tokens` of which are real.

    `places` (tokens,) is each token's position in its sequence. `grouped` leads from the row of tokens to the groups'
    padded rows, one group after the other; None where no group has padding. `learned` are the positions whose next
    token carries loss; None where all positions are looked at.
    """

    rows: int
    width: int
    tokens: int
    real: RealPositions
    places: Tensor
    groups: tuple[AttentionGroup, ...]
    grouped: RealPositions | None
    learned: RealPositions | None

    @property
    def group_sizes(self) -> list[int]:
        """Positions of each group, padding included."""
        return [len(group.rows) * group.width for group in self.groups]


def layout(lengths: Indices, width: int, *, device: torch.device, learned: Indices | None = None) -> Layout:
    """`lengths` are the tokens of each row; `learned` the flat positions whose outputs matter, if not all do."""
    members = by_length(lengths, fixed=FIXED[device.type] ** 2, power=2)
    order = np.concatenate(members)
    places = np.concatenate([np.arange(lengths[row]) for row in order])
    starts = np.repeat(order * width, lengths[order])
    size = len(lengths) * width
    return Layout(
        rows=len(lengths),
        width=width,
        tokens=len(places),
        real=RealPositions.of(starts + places, size, device),
        places=torch.from_numpy(places).to(device),
        groups=tuple(_group(rows, lengths, device) for rows in members),
        grouped=_grouped(members, lengths, device),
        learned=None if learned is None else RealPositions.of(learned, size, device),
    )


def _group(rows: Indices, lengths: Indices, device: torch.device) -> AttentionGroup:
    width = int(lengths[rows[-1]])
    real: NDArray[np.bool_] = np.arange(width)[None] < lengths[rows][:, None]
    mask = None if real.all() else torch.from_numpy(real[:, None, None]).to(device)
    return AttentionGroup(torch.from_numpy(rows).to(device), width, mask)


def _grouped(members: list[Indices], lengths: Indices, device: torch.device) -> RealPositions | None:
    real, start = [], 0
    for rows in members:
        width = int(lengths[rows[-1]])
        for length in lengths[rows]:
            real.append(np.arange(start, start + length))
            start += width
    padded = np.concatenate(real)
    return None if len(padded) == start else RealPositions.of(padded, start, device)
