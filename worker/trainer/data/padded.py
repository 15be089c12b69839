"""Token sequences of a data set in flat arrays, from which padded batches are gathered without a Python loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from worker.trainer.data.batch import hollow
from worker.trainer.data.flat import Flat
from worker.trainer.data.sampler import Positions

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one text, and its segment ids (token_type_ids) where the tokenizer makes them."""

    ids: Ids
    segments: Ids | None = None


class PaddedRows:
    """Rows of different lengths, one after the other in `flat`, of which the last element fills rows up.

    Row `at` begins at `starts[at]`; a batch has its numbers as int64.
    """

    def __init__(self, flat: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self.lengths = lengths
        self._flat = flat
        self._starts = starts

    @classmethod
    def of(cls, rows: Sequence[NDArray[Any]], *, fill: int) -> PaddedRows:
        """These rows, in memory, in the dtype of the first."""
        writer = RowWriter(rows[0].dtype if rows else np.int64)
        for row in rows:
            writer.add(row)
        return writer.finished(fill=fill)

    def row(self, at: int) -> NDArray[Any]:
        """One row without padding; not a copy."""
        start = self._starts[at]
        return self._flat[start : start + self.lengths[at]]

    def batch(self, positions: Positions, width: int) -> NDArray[np.int64]:
        """(positions, width): each row at these positions, filled up at its end."""
        columns = np.arange(width)
        places = np.where(
            columns < self.lengths[positions, None], self._starts[positions, None] + columns, len(self._flat) - 1
        )
        return self._flat[places].astype(np.int64, copy=False)

    def taken(self, order: Positions) -> PaddedRows:
        """The rows in another order."""
        return PaddedRows(self._flat, self._starts[order], self.lengths[order])


class RowWriter:
    """Takes rows one by one. What does not fit in memory is in files of `folder`."""

    def __init__(self, dtype: DTypeLike, folder: Path | None = None) -> None:
        self._dtype = np.dtype(dtype)
        self._flat = Flat(self._dtype, folder, scattered=True)
        self._starts, self._lengths = (Flat(np.int64, folder, scattered=True) for _ in range(2))
        self._end = 0

    def add(self, row: NDArray[Any]) -> None:
        """OSError where the disk is full."""
        self._flat.add(row.astype(self._dtype, copy=False).tobytes())
        self._starts.add_number(self._end)
        self._lengths.add_number(len(row))
        self._end += len(row)

    def finished(self, *, fill: int) -> PaddedRows:
        self._flat.add(np.array([fill], dtype=self._dtype).tobytes())
        return PaddedRows(self._flat.finished(), self._starts.finished(), self._lengths.finished())


class PaddedTokens(Sequence[Tokens]):
    """The model inputs of token sequences: input_ids, attention_mask and, where there are segments, token_type_ids."""

    def __init__(self, ids: PaddedRows, segments: PaddedRows | None) -> None:
        self._ids = ids
        self._segments = segments

    @classmethod
    def of(cls, sequences: Iterable[Tokens], *, pad: int) -> PaddedTokens:
        """These sequences, in memory."""
        writer = TokenWriter()
        for each in sequences:
            writer.add(each)
        return writer.finished(pad=pad)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._ids.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> Tokens: ...
    @overload
    def __getitem__(self, at: slice) -> PaddedTokens: ...
    def __getitem__(self, at: int | slice) -> Tokens | PaddedTokens:
        if isinstance(at, slice):
            return self.taken(np.arange(len(self))[at])
        row = range(len(self))[at]
        return Tokens(self._ids.row(row), None if self._segments is None else self._segments.row(row))

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

    def taken(self, order: Positions) -> PaddedTokens:
        """The sequences in another order."""
        return PaddedTokens(self._ids.taken(order), None if self._segments is None else self._segments.taken(order))


class TokenWriter:
    """Takes token sequences one by one. Whether there are segments is as the first one has it."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._ids = RowWriter(np.int32, folder)
        self._segments: RowWriter | None = None
        self._begun = False

    def add(self, tokens: Tokens) -> None:
        """OSError where the disk is full."""
        if not self._begun and tokens.segments is not None:
            self._segments = RowWriter(np.int32, self._folder)
        self._begun = True
        self._ids.add(tokens.ids)
        if self._segments is not None:
            self._segments.add(np.zeros_like(tokens.ids) if tokens.segments is None else tokens.segments)

    def finished(self, *, pad: int) -> PaddedTokens:
        """The sequences, filled up with `pad` in batches."""
        segments = None if self._segments is None else self._segments.finished(fill=0)
        return PaddedTokens(self._ids.finished(fill=pad), segments)
