"""Token sequences of a data set in flat arrays, from which padded batches are gathered without a Python loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.trainer.data.batch import hollow
from worker.trainer.data.sampler import Positions

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one text, and its segment ids (token_type_ids) where the tokenizer makes them."""

    ids: Ids
    segments: Ids | None = None


class PaddedRows:
    """Rows of different lengths, one after the other in `flat`, whose dtype a batch has too."""

    def __init__(self, rows: Sequence[NDArray[np.int32] | NDArray[np.int64]], *, fill: int) -> None:
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self._flat = np.concatenate([*rows, [fill]]).astype(np.int64 if not rows else rows[0].dtype)
        self._starts = np.cumsum(self.lengths) - self.lengths

    def batch(self, positions: Positions, width: int) -> NDArray[np.int64]:
        """(positions, width): each row at these positions, filled up at its end."""
        columns = np.arange(width)
        places = np.where(
            columns < self.lengths[positions, None], self._starts[positions, None] + columns, len(self._flat) - 1
        )
        return self._flat[places].astype(np.int64, copy=False)


class PaddedTokens:
    """The model inputs of token sequences: input_ids, attention_mask and, where there are segments, token_type_ids."""

    def __init__(self, sequences: Sequence[Tokens], *, pad: int) -> None:
        self._ids = PaddedRows([each.ids for each in sequences], fill=pad)
        self._segments = None
        if sequences and sequences[0].segments is not None:
            kinds = [np.zeros_like(each.ids) if each.segments is None else each.segments for each in sequences]
            self._segments = PaddedRows(kinds, fill=0)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._ids.lengths

    def batch(self, positions: Positions) -> dict[str, Tensor]:
        """The inputs of these sequences, each (positions, width of the longest)."""
        lengths = self.lengths[positions]
        width = int(lengths.max())
        inputs = {
            "input_ids": torch.from_numpy(self._ids.batch(positions, width)),
            "attention_mask": torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64)),
        }
        if self._segments is not None:
            inputs["token_type_ids"] = torch.from_numpy(self._segments.batch(positions, width))
        return inputs

    def outline(self, positions: Positions) -> dict[str, Tensor]:
        """As `batch`, holding nothing."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._segments is not None else [])]
        nothing = hollow(torch.int64, len(positions), int(self.lengths[positions].max()))
        return dict.fromkeys(names, nothing)
