"""Small batches to try a model with, and how long each row of a data set is."""

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
from worker.trainer.prefix.cut import Sides, UncuttableError
from worker.trainer.witness.observe import raw

WIDTH = 16  # tokens: what shapes stand for shows in short examples as well as in long ones

Indices = NDArray[np.int64]


def two_batches(examples: Examples) -> tuple[Batch, Batch, Sides]:
    """The second has a row (or a pair of rows) more and, where there are tokens, a token less."""
    few = np.resize(np.arange(len(examples), dtype=np.int64), 3)
    one, two = examples.batch(few[:2]), examples.batch(few)
    if one.rows is None:
        raise UncuttableError("examples share rows of a batch, so no row stays the same")
    width = min(one.width, WIDTH)
    if one.width == 1:
        raise UncuttableError("the examples have one token each")
    if width:
        one, two = narrowed(one, width), narrowed(two, width - 1)
    rows = [0 if batch.rows is None else len(batch.rows) for batch in (one, two)]
    if any(len(each) != count for batch, count in zip((one, two), rows, strict=True) for each in batch.inputs.values()):
        raise UncuttableError("the inputs are not a row per example")
    return one, two, Sides((rows[0], rows[1]), (one.width, two.width))


def narrowed(batch: Batch, width: int) -> Batch:
    """The first `width` tokens of each row."""
    old = batch.width

    def cut(tensor: Tensor) -> Tensor:
        return tensor[:, :width] if tensor.ndim > 1 and tensor.shape[1] == old else tensor

    inputs = {name: cut(each) for name, each in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=cut(batch.targets))


def in_order(examples: Examples, size: int) -> Iterator[Positions]:
    """Every example once in batches that depend on the data alone: by length, all of `size`.

    The last one is filled up with the first examples, since a smaller batch may be computed with other last bits.
    """
    lengths = examples.lengths
    order = np.arange(len(examples)) if lengths is None else np.argsort(lengths, kind="stable")
    for at in range(0, len(order), size):
        part = order[at : at + size].astype(np.int64)
        yield part if len(part) == size else np.concatenate([part, np.resize(order, size - len(part))])


def row_lengths(examples: Examples, size: int) -> tuple[int, Indices | None]:
    """How many rows a data set has, and the tokens of each; None where rows have no length."""
    lengths: dict[int, int] = {}
    count = 0
    for positions in in_order(examples, size):
        batch = examples.batch(positions)
        assert batch.rows is not None
        count = len(examples) * len(batch.rows) // len(positions)
        if not batch.width:
            return count, None
        lengths |= dict(zip(batch.rows.tolist(), _lengths(batch).tolist(), strict=True))
    return count, np.array([lengths[row] for row in range(count)], dtype=np.int64)


def digest(batch: Batch) -> str:
    """SHA-256 of a batch's inputs."""
    found = hashlib.sha256()
    for name, tensor in sorted(batch.inputs.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(raw(tensor))
    return found.hexdigest()


def _lengths(batch: Batch) -> Tensor:
    mask = batch.inputs.get("attention_mask")
    if mask is None or mask.shape != batch.inputs["input_ids"].shape:
        raise UncuttableError("the inputs have no attention mask of a row per example")
    lengths = mask.sum(dim=1)
    if not torch.equal(mask.bool(), torch.arange(batch.width)[None] < lengths[:, None]):
        raise UncuttableError("examples are not padded at their ends")
    return lengths
