"""Small batches to try a model with, batches over a whole data set, and the length of each row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.sampler import Positions
from worker.trainer.prefix.cut import UncuttableError
from worker.trainer.prefix.shapes import BatchSizes
from worker.trainer.witness.observe import raw

WIDTH = 16  # tokens: short examples show the shapes as well as long ones

Indices = NDArray[np.int64]


def two_batches(examples: Examples) -> tuple[Batch, Batch, BatchSizes]:
    """Two batches that differ in size: the second has one row (or pair of rows) more, and rows of one token less.

    UncuttableError where examples are not rows of their own.
    """
    positions = np.resize(np.arange(len(examples), dtype=np.int64), 3)
    first, second = examples.batch(positions[:2]), examples.batch(positions)
    if first.rows is None or second.rows is None:
        raise UncuttableError("examples share rows of a batch, so no row stays the same")
    if first.width == 1:
        raise UncuttableError("the examples have one token each")

    whole = getattr(examples, "whole", 0)  # tokens that no row can lose, such as those of a picture
    if whole and first.width - 1 < whole:
        raise UncuttableError("no row is longer than its picture")
    if width := min(first.width, max(WIDTH, whole + 1)):
        first, second = narrowed(first, width), narrowed(second, width - 1)
    assert first.rows is not None and second.rows is not None
    sizes = BatchSizes((len(first.rows), len(second.rows)), (first.width, second.width))
    for batch, rows in zip((first, second), sizes.rows, strict=True):
        if any(len(tensor) != rows for tensor in batch.inputs.values()):
            raise UncuttableError("the inputs are not a row per example")
    return first, second, sizes


def narrowed(batch: Batch, width: int) -> Batch:
    """The first `width` tokens of each row."""
    old = batch.width

    def cut(tensor: Tensor) -> Tensor:
        return tensor[:, :width] if tensor.ndim > 1 and tensor.shape[1] == old else tensor

    inputs = {name: tensor[:, :width] if batch.is_per_token(name) else tensor for name, tensor in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=cut(batch.targets))


def in_order(examples: Examples, size: int) -> Iterator[Positions]:
    """Batches of exactly `size` positions that cover every example once, in an order that depends on the data alone.

    Sorted by length. The last batch is filled up with the first examples, since the results of a smaller batch may
    differ in their last bits.
    """
    lengths = examples.lengths
    order = np.arange(len(examples)) if lengths is None else np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        part = order[start : start + size].astype(np.int64)
        yield part if len(part) == size else np.concatenate([part, np.resize(order, size - len(part))])


def row_lengths(examples: Examples, size: int) -> tuple[int, Indices | None]:
    """The number of rows of a data set, and the tokens in each, or None where rows have no length."""
    lengths: dict[int, int] = {}
    count = 0
    for positions in in_order(examples, size):
        batch = examples.batch(positions)
        assert batch.rows is not None
        count = len(examples) * len(batch.rows) // len(positions)
        if not batch.width:
            return count, None
        lengths |= dict(zip(batch.rows.tolist(), lengths_of(batch, examples).tolist(), strict=True))
    return count, np.array([lengths[row] for row in range(count)], dtype=np.int64)


def digest(batch: Batch) -> str:
    """SHA-256 of a batch's inputs."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(batch.inputs.items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        hasher.update(raw(tensor))
    return hasher.hexdigest()


def lengths_of(batch: Batch, examples: Examples) -> Indices:
    """The tokens of each row of a batch; all of them where rows have one width, whose padding is read like the rest."""
    if getattr(examples, "one_width", False):
        return np.full(len(batch.inputs["input_ids"]), batch.width, dtype=np.int64)
    mask = batch.inputs.get("attention_mask")
    if mask is None or mask.shape != batch.inputs["input_ids"].shape:
        raise UncuttableError("the inputs have no attention mask of a row per example")
    lengths = mask.sum(dim=1)
    if not torch.equal(mask.bool(), torch.arange(batch.width, device=mask.device)[None] < lengths[:, None]):
        raise UncuttableError("examples are not padded at their ends")
    return lengths.cpu().numpy()
