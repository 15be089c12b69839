"""The model inputs of single rows, each as long as its own example: what a kept result is computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worker.trainer.data.batch import Batch
from worker.trainer.witness.observe import raw

TOKENS = 1024  # that pass through the model at a time, on a CPU
GPU_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class RowInputs:
    """One row of a data set: its number, its tokens (0 where rows have no length), and its inputs without padding."""

    row: int
    length: int
    inputs: Mapping[str, Tensor]

    @property
    def address(self) -> bytes:
        """SHA-256 of names, dtypes, shapes and values."""
        hasher = hashlib.sha256()
        for name, tensor in sorted(self.inputs.items()):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            hasher.update(raw(tensor))
        return hasher.digest()


def rows_of(batch: Batch, lengths: np.ndarray | None, own: Sequence[int]) -> Iterator[RowInputs]:
    """The rows with these indices in the batch. `lengths` has the tokens of every row of the data set."""
    assert batch.rows is not None
    for index in own:
        row = int(batch.rows[index])
        length = 0 if lengths is None else int(lengths[row])
        yield RowInputs(row, length, {name: _of_row(batch, name, index, length) for name in batch.inputs})


def together(rows: Sequence[RowInputs], like: Batch) -> Batch:
    """A batch of rows of equal length, without padding. `like` is any batch of the data, which gives the rest."""
    inputs = {name: torch.stack([row.inputs[name] for row in rows]) for name in rows[0].inputs}
    return replace(like, inputs=inputs, rows=np.array([row.row for row in rows], dtype=np.int64))


def at_a_time(length: int, *, most: int, device: torch.device) -> int:
    """How many rows of this length pass through the model together: of this alone, so that all jobs do the same."""
    tokens = GPU_TOKENS if device.type == "cuda" else TOKENS
    return max(1, min(most, tokens // length)) if length else most


def _of_row(batch: Batch, name: str, index: int, length: int) -> Tensor:
    row = batch.inputs[name][index]
    return row[:length] if length and batch.is_per_token(name) else row
