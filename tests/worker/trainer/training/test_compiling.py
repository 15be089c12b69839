"""Batches as a compiled model gets them: of few widths, so that there are few graphs."""

from __future__ import annotations

import pytest
import torch

from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.training import compiling


def batch(width: int, targets: torch.Tensor) -> Batch:
    ids = torch.ones(2, width, dtype=torch.int64)
    return Batch({"input_ids": ids, "attention_mask": ids.clone()}, targets, weight=2, examples=2)


@pytest.mark.parametrize(
    ("width", "limit", "wanted"), [(3, 512, 16), (16, 512, 16), (17, 512, 32), (300, 500, 500), (20, 20, 20), (9, 8, 9)]
)
def test_rows_are_filled_up(width: int, limit: int, wanted: int) -> None:
    """To the next power of two, never beyond what an example may have; filling is masked, and carries no loss."""
    by_token = compiling.filled_up(batch(width, torch.zeros(2, width, dtype=torch.int64)), limit=limit, pad=7)
    assert by_token.width == wanted
    assert by_token.inputs["input_ids"][:, width:].eq(7).all()
    assert int(by_token.inputs["attention_mask"].sum()) == 2 * width
    assert by_token.targets.shape == (2, wanted)
    assert int((by_token.targets != IGNORED).sum()) == 2 * width
    by_text = compiling.filled_up(batch(width, torch.zeros(2)), limit=limit, pad=7)
    assert by_text.targets.shape == (2,)


def test_what_is_no_text_is_left_alone() -> None:
    """Rows of numbers have the width that they have."""
    numbers = Batch({"x": torch.zeros(2, 3)}, torch.zeros(2), weight=2, examples=2)
    assert compiling.filled_up(numbers, limit=512, pad=0) is numbers
