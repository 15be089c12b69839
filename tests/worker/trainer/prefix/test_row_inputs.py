"""Rows of batches by themselves: without padding, addressed by their values, put together again by length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worker.trainer.data.batch import Batch
from worker.trainer.prefix.row_inputs import RowInputs, at_a_time, rows_of, together

LENGTHS = np.array([2, 4, 4])


def batch(pad: int = 0, *, width: int = 4, **changes: Any) -> Batch:
    ids = torch.full((3, width), pad)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.arange(1, length + 1) + row
    mask = (torch.arange(width)[None] < torch.from_numpy(LENGTHS)[:, None]).long()
    inputs = {"input_ids": ids, "attention_mask": mask} | changes
    return Batch(inputs, torch.zeros(3), weight=3, examples=3, rows=np.arange(3))


def addresses(given: Batch) -> list[bytes]:
    return [row.address for row in rows_of(given, LENGTHS, range(3))]


def test_padding_is_no_part_of_a_row() -> None:
    """The same address in wider batches and with another padding token; another one for every other row."""
    first = addresses(batch())
    assert first == addresses(batch(9, width=7))
    assert len(set(first)) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"input_ids": torch.tensor([[1, 9, 0, 0]] * 3)},
        {"input_ids": torch.tensor([[1, 2, 0, 0]] * 3, dtype=torch.int32)},
        {"other": torch.ones(3, 4)},
    ],
    ids=["a token", "a dtype", "a further input"],
)
def test_values_dtypes_and_names_count(changed: dict[str, Any]) -> None:
    assert addresses(batch(**changed))[0] != addresses(batch())[0]


def test_rows_of_one_length_make_a_batch() -> None:
    """As wide as they are, under their own numbers; what has no tokens stays whole."""
    pixels = torch.arange(12).reshape(3, 4)
    rows = [row for row in rows_of(batch(extra=pixels), LENGTHS, range(3)) if row.length == 4]
    made = together(rows, batch())
    assert made.inputs["input_ids"].tolist() == [[2, 3, 4, 5], [3, 4, 5, 6]]
    assert made.inputs["attention_mask"].all()
    assert made.rows is not None and made.rows.tolist() == [1, 2]
    plain = Batch({"x": pixels}, torch.zeros(3), weight=3, examples=3, rows=np.arange(3))
    assert [row.inputs["x"].tolist() for row in rows_of(plain, None, [2])] == [[8, 9, 10, 11]]


def test_how_many_at_a_time_depends_on_the_length_alone() -> None:
    """Never more than the job's own micro-batch, never none."""
    cpu = torch.device("cpu")
    assert [at_a_time(length, most=16, device=cpu) for length in (0, 1, 64, 100, 512, 5000)] == [16, 16, 16, 10, 2, 1]
    assert at_a_time(100, most=64, device=torch.device("cuda")) == 64


def test_a_row_by_itself() -> None:
    assert RowInputs(0, 0, {"x": torch.tensor(1.0)}).address != RowInputs(0, 0, {"x": torch.tensor([1.0])}).address
