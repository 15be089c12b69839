"""Batches gathered from flat arrays are those that rows padded one by one make, and outlines have their form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.trainer.data.padded import PaddedRows, PaddedTokens, Tokens

LENGTHS = (3, 1, 5, 2)


def sequences(*, segments: bool) -> list[Tokens]:
    ids = [np.arange(10 * at + 1, 10 * at + 1 + length, dtype=np.int32) for at, length in enumerate(LENGTHS)]
    return [Tokens(each, (each % 2).astype(np.int32) if segments else None) for each in ids]


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [1], [3, 1], [2, 2, 0]])
def test_rows_are_filled_up_at_their_ends(segments: bool, chosen: list[int]) -> None:
    """To the longest of the batch, with the mask of what is real; segments are 0 there."""
    given = sequences(segments=segments)
    batch = PaddedTokens.of(given, pad=99).batch(np.array(chosen))
    width = max(LENGTHS[at] for at in chosen)
    assert set(batch) == {"input_ids", "attention_mask", *(["token_type_ids"] if segments else [])}
    for row, at in enumerate(chosen):
        padding = width - LENGTHS[at]
        assert batch["input_ids"][row].tolist() == [*given[at].ids.tolist(), *[99] * padding]
        assert batch["attention_mask"][row].tolist() == [1] * LENGTHS[at] + [0] * padding
        kinds = given[at].segments
        if kinds is not None:
            assert batch["token_type_ids"][row].tolist() == [*kinds.tolist(), *[0] * padding]
    assert all(tensor.dtype == torch.int64 and tensor.is_contiguous() for tensor in batch.values())


def test_an_outline_has_names_shapes_and_dtypes() -> None:
    """And holds nothing."""
    tokens = PaddedTokens.of(sequences(segments=True), pad=99)
    batch, outline = (make(np.array([0, 3])) for make in (tokens.batch, tokens.outline))
    assert {name: (t.dtype, t.shape) for name, t in outline.items()} == {
        name: (t.dtype, t.shape) for name, t in batch.items()
    }
    assert not any(tensor.any() for tensor in outline.values())


def test_targets_are_filled_up_in_their_own_dtype() -> None:
    """Rows of 64-bit targets stay what they are."""
    rows = PaddedRows.of([np.array([2**40]), np.array([1, 2])], fill=-100)
    assert rows.batch(np.array([0, 1]), 2).tolist() == [[2**40, -100], [1, 2]]
    assert rows.lengths.tolist() == [1, 2]
