"""Kept results: what goes in comes out, in memory and in files, in batches of any width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worker.trainer.prefix.kept_results import JOURNAL, KeptResults, nbytes
from worker.trainer.prefix.shapes import Leaf, Shape

LENGTHS = np.array([3, 1, 4, 4], dtype=np.int64)
EVERY = np.arange(4)


def leaf(*sizes: int | str, dtype: torch.dtype = torch.float32, more: int = 0) -> Leaf:
    return Leaf(Shape(sizes, more), dtype, True)


LEAVES = [
    leaf("rows", "width", 5),
    leaf("rows", 2, dtype=torch.bfloat16),
    leaf("rows", 2, "width", dtype=torch.int64, more=1),  # a token more than the batch has
]


def values(rows: int, width: int) -> list[torch.Tensor]:
    torch.manual_seed(rows)
    return [
        torch.randn(rows, width, 5),
        torch.randn(rows, 2).bfloat16(),
        torch.randint(1, 9, (rows, 2, width + 1)),
    ]


def masked(value: torch.Tensor, dimension: int, lengths: np.ndarray) -> torch.Tensor:
    found = torch.zeros_like(value)
    for at, length in enumerate(lengths):
        found[at].narrow(dimension, 0, length).copy_(value[at].narrow(dimension, 0, length))
    return found


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "file"])
def test_rows_come_back_padded_with_zeros(tmp_path: Path, stored: bool) -> None:
    """Each row as long as its example, whatever the width of the batch that it was computed in."""
    rows = KeptResults(LEAVES, 4, lengths=LENGTHS, folder=tmp_path / "x" if stored else None)
    whole = values(4, 4)
    rows.put(np.array([0, 2]), [value[[0, 2]] for value in whole])
    rows.put(np.array([3, 1]), [value[[3, 1]] for value in whole])
    for order in (np.array([2, 0, 1]), np.array([3, 2])):
        found = rows.get(order, 4)
        assert torch.equal(found[0], masked(whole[0][order], 0, LENGTHS[order]))
        assert torch.equal(found[1], whole[1][order])
        assert torch.equal(found[2], masked(whole[2][order], 1, LENGTHS[order] + 1))
    assert rows.get(np.array([1]), 2)[0].shape == (1, 2, 5)
    assert rows.nbytes == nbytes(LEAVES, 4, LENGTHS) == 12 * 5 * 4 + 4 * 2 * 2 + 16 * 2 * 8


def test_what_is_given_may_be_written_to() -> None:
    """A model may work in place on a result; the next epoch gets the same as this one."""
    rows = KeptResults(LEAVES[:1], 4, lengths=LENGTHS)
    rows.put(EVERY, values(4, 4)[:1])
    for order in (EVERY, np.array([2, 3])):
        first = rows.get(order, 4)[0]
        kept = first.clone()
        first.zero_()
        assert torch.equal(rows.get(order, 4)[0], kept)


def test_files_are_used_again(tmp_path: Path) -> None:
    """A later attempt finds what was noted; other inputs, other bytes and what was not noted are computed anew."""
    first = KeptResults(LEAVES, 4, lengths=LENGTHS, folder=tmp_path)
    one, two = np.array([0, 1]), np.array([2, 3])
    first.put(EVERY, values(4, 4))
    first.note("0", "a", one)
    first.note("1", "b", two)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"part": "2", "inp')  # killed while writing
    again = KeptResults(LEAVES, 4, lengths=LENGTHS, folder=tmp_path)
    assert again.holds("0", "a", one)
    assert again.holds("1", "b", two)
    assert not again.holds("0", "other", one)
    assert not again.holds("2", "c", one)
    assert torch.equal(again.get(EVERY, 4)[1], values(4, 4)[1])
    content = bytearray((tmp_path / "1.bin").read_bytes())
    content[-1] ^= 1
    (tmp_path / "1.bin").write_bytes(content)
    spoilt = KeptResults(LEAVES, 4, lengths=LENGTHS, folder=tmp_path)
    assert spoilt.holds("0", "a", one)
    assert not spoilt.holds("1", "b", two)


def test_memory_keeps_no_journal() -> None:
    """Nothing is claimed of an earlier attempt."""
    rows = KeptResults(LEAVES, 4, lengths=LENGTHS)
    rows.put(EVERY, values(4, 4))
    rows.note("0", "a", EVERY)
    assert not rows.holds("0", "a", EVERY)
