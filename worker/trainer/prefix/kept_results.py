"""Storage of a prefix's results: an array per tensor with a row per example, in memory or in a file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.jsontypes import JsonDict
from worker.trainer.prefix.shapes import Leaf
from worker.trainer.witness.observe import raw

Indices = NDArray[np.int64]
JOURNAL = "done.jsonl"


class KeptResults:
    """The results of one data set. `lengths` has the tokens of each row, None where rows have no length.

    A row takes as much room as its own example needs. With a `folder` the arrays are files in it, beside a journal
    with digests of inputs and results, so that a later attempt can use them. OSError if they do not fit on the disk.
    """

    def __init__(
        self, leaves: Sequence[Leaf], count: int, *, lengths: Indices | None, folder: Path | None = None
    ) -> None:
        self.leaves = list(leaves)
        self.count = count
        self.lengths = lengths
        self._folder = folder
        self._starts = [_starts(leaf, count, lengths) for leaf in leaves]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        pairs = enumerate(zip(self.leaves, self._starts, strict=True))
        self._flat = [_array(leaf, starts, folder, number) for number, (leaf, starts) in pairs]
        self._whole_rows = [
            flat.view(count, -1) if leaf.shape.ragged is None and len(flat) else None
            for leaf, flat in zip(self.leaves, self._flat, strict=True)
        ]
        self._done = _read_journal(folder / JOURNAL) if folder is not None else {}

    @property
    def nbytes(self) -> int:
        return nbytes(self.leaves, self.count, self.lengths)

    def put(self, rows: Indices, values: Sequence[Tensor]) -> None:
        """Store the results of these rows, a batch of tensors for each leaf."""
        for leaf, starts, flat, value in zip(self.leaves, self._starts, self._flat, values, strict=True):
            value = value.detach().cpu()
            for index, row in enumerate(rows):
                part = self._trimmed(leaf, value[index], int(row))
                flat[int(starts[row]) : int(starts[row + 1])] = part.reshape(-1)

    def get(self, rows: Indices, width: int) -> list[Tensor]:
        """The results of these rows as a batch of this width, filled up with zeros where a row is shorter."""
        batches = []
        parts = zip(self.leaves, self._starts, self._flat, self._whole_rows, strict=True)
        for leaf, starts, flat, whole_rows in parts:
            sizes = leaf.shape.filled(len(rows), width)
            if whole_rows is not None:
                chosen = whole_rows.index_select(0, torch.from_numpy(rows))
                batches.append(chosen if chosen.shape == sizes else chosen.view(sizes))
                continue
            if self._all_of_width(leaf, rows, width):
                size = math.prod(sizes[1:])
                begins = torch.from_numpy(starts[rows])
                batches.append(_gathered(flat, begins, size).reshape(sizes))
                continue
            padded = torch.zeros(sizes, dtype=leaf.dtype)
            for index, row in enumerate(rows):
                target = self._trimmed(leaf, padded[index], int(row))
                target.copy_(flat[int(starts[row]) : int(starts[row + 1])].view(target.shape))
            batches.append(padded)
        return batches

    def row_bytes(self, row: int) -> bytes:
        """The results of one row, one leaf after the other."""
        return b"".join(raw(part) for part in self._parts(row))

    def put_bytes(self, row: int, payload: bytes) -> None:
        """Store what `row_bytes` gave."""
        begin = 0
        for part in self._parts(row):
            if part.nbytes:
                source = np.frombuffer(payload, np.uint8, count=part.nbytes, offset=begin)
                part.view(torch.uint8).numpy()[:] = source
            begin += part.nbytes

    def row_size(self, row: int) -> int:
        """Bytes of one row."""
        return sum(part.nbytes for part in self._parts(row))

    def _parts(self, row: int) -> list[Tensor]:
        pairs = zip(self._starts, self._flat, strict=True)
        return [flat[int(starts[row]) : int(starts[row + 1])] for starts, flat in pairs]

    def holds(self, name: str, inputs: str, rows: Indices) -> bool:
        """Whether an earlier attempt stored this part, from the same inputs, and it is intact."""
        entry = self._done.get(name)
        return entry is not None and entry["inputs"] == inputs and entry["results"] == self._digest(rows)

    def note(self, name: str, inputs: str, rows: Indices) -> None:
        """Write into the journal that a part is complete."""
        if self._folder is None:
            return
        entry = {"part": name, "inputs": inputs, "results": self._digest(rows)}
        with (self._folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")

    def _all_of_width(self, leaf: Leaf, rows: Indices, width: int) -> bool:
        """Whether these rows are all of the batch's width, so that none is padded."""
        if leaf.shape.ragged is None:
            return True
        return leaf.shape.ragged == 1 and self.lengths is not None and bool((self.lengths[rows] == width).all())

    def _trimmed(self, leaf: Leaf, row: Tensor, index: int) -> Tensor:
        ragged = leaf.shape.ragged
        if ragged is None:
            return row
        assert self.lengths is not None
        return row.narrow(ragged - 1, 0, int(self.lengths[index]) + leaf.shape.more)

    def _digest(self, rows: Indices) -> str:
        digest = hashlib.sha256()
        for starts, flat in zip(self._starts, self._flat, strict=True):
            for row in rows:
                digest.update(raw(flat[int(starts[row]) : int(starts[row + 1])]))
        return digest.hexdigest()


def nbytes(leaves: Sequence[Leaf], count: int, lengths: Indices | None) -> int:
    """Bytes of all rows together."""
    return sum(int(_starts(leaf, count, lengths)[-1]) * leaf.dtype.itemsize for leaf in leaves)


def _starts(leaf: Leaf, count: int, lengths: Indices | None) -> Indices:
    """(count + 1,): where each row begins, in elements."""
    per_token = math.prod(size for size in leaf.shape.sizes if isinstance(size, int))
    if leaf.shape.ragged is None:
        return np.arange(count + 1, dtype=np.int64) * per_token
    assert lengths is not None
    return np.concatenate([[0], np.cumsum((lengths + leaf.shape.more) * per_token)]).astype(np.int64)


def _array(leaf: Leaf, starts: Indices, folder: Path | None, number: int) -> Tensor:
    elements = int(starts[-1])
    if folder is None:
        return torch.empty(elements, dtype=leaf.dtype)
    path, size = folder / f"{number}.bin", elements * leaf.dtype.itemsize
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, size)  # a full disk is an error here; in mapped memory it would be a crash
    finally:
        os.close(descriptor)
    return torch.from_file(str(path), shared=True, size=elements, dtype=leaf.dtype)


def _gathered(flat: Tensor, begins: Tensor, size: int) -> Tensor:
    """(rows, size): `size` elements of `flat` from each of `begins` on."""
    if len(begins) and size and bool((begins % size == 0).all()) and len(flat) % size == 0:
        return flat.view(-1, size).index_select(0, begins // size)
    return torch.stack([flat[int(begin) : int(begin) + size] for begin in begins])


def _read_journal(path: Path) -> dict[str, JsonDict]:
    """The parts that are complete, by name. A last line that a crash cut short does not count."""
    entries: dict[str, JsonDict] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return entries
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"part", "inputs", "results"} <= set(entry):
            entries[entry["part"]] = entry
    return entries
