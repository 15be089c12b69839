"""Shapes read off two passes that differ in rows and width."""

import pytest
import torch

from worker.trainer.prefix.shapes import BatchSizes, Shape, shape_of

TEXT = BatchSizes(rows=(2, 3), width=(16, 15))


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        ((2, 16, 64), (3, 15, 64), Shape(("rows", "width", 64))),
        ((2, 17), (3, 16), Shape(("rows", "width"), more=1)),
        ((2, 64), (3, 64), Shape(("rows", 64))),
        ((1, 16, 16), (1, 15, 15), Shape((1, "width", "width"))),
        ((2, 32), (3, 30), None),
        ((2, 16, 17), (3, 15, 16), None),
        ((2, 16), (3, 15, 1), None),
    ],
    ids=["hidden states", "one token more", "pooled", "mask", "twice the width", "two widths", "other dimensions"],
)
def test_sizes_are_told_apart(first: tuple[int, ...], second: tuple[int, ...], shape: Shape | None) -> None:
    assert shape_of(torch.empty(first), torch.empty(second), TEXT) == shape


def test_what_can_be_stored_row_by_row() -> None:
    """Rows come first and once, and at most one size is the width."""
    assert Shape(("rows", "width", 4)).storable
    assert not Shape(("rows", "width", "width")).storable
    assert not Shape((4, "rows")).storable
    assert not Shape(("rows", "width"), more=-1).storable
    assert Shape(("rows", 8, "width"), more=2).filled(5, 10) == (5, 8, 12)
