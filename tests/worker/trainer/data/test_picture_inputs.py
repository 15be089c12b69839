"""Picture inputs of several examples in one batch."""

import torch

from worker.trainer.data.picture_inputs import one_each, other_size, together


def picture(*shape: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.ones(shape)}


def test_pictures_come_one_after_the_other() -> None:
    """An example may have several, or none."""
    found = together([picture(2, 3, 4, 4), {}, picture(1, 3, 4, 4)], nested=False)
    assert found["pixel_values"].shape == (3, 3, 4, 4)
    assert together([{}, {}], nested=False) == {}


def test_nested_pictures_are_joined_behind_the_first_dimension() -> None:
    """Idefics has one row of pictures per text; smaller ones are filled up, and the mask says where."""
    large = picture(1, 2, 3, 4, 4) | {"pixel_attention_mask": torch.ones(1, 2, 4, 4)}
    small = picture(1, 1, 3, 2, 4) | {"pixel_attention_mask": torch.ones(1, 1, 2, 4)}
    found = together([large, small], nested=True)
    assert found["pixel_values"].shape == (1, 3, 3, 4, 4)
    assert found["pixel_attention_mask"][0, 2].sum() == 8


def test_rows_are_examples_where_each_has_one_picture() -> None:
    """Of one shape, and no further input that says otherwise."""
    assert one_each([picture(1, 3, 4, 4)] * 2, nested=False)
    assert not one_each([picture(1, 3, 4, 4), picture(2, 3, 4, 4)], nested=False)
    assert not one_each([picture(1, 3, 4, 4), {}], nested=False)
    assert not one_each([picture(1, 1, 3, 4, 4)] * 2, nested=True)
    assert not one_each([picture(16, 48)] * 2, nested=False)


def test_the_first_of_another_size_is_found() -> None:
    """Unless the model is given what part of a picture is real."""
    assert other_size([picture(1, 3, 4, 4), picture(1, 3, 4, 2)], nested=False) == 1
    sized = [each | {"image_sizes": torch.tensor([[4, 4]])} for each in (picture(1, 3, 4, 4), picture(1, 3, 4, 2))]
    assert other_size(sized, nested=False) is None
