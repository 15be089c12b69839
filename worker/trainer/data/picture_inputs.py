"""The picture inputs of single examples, and how those of several become one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Inputs that say which part of a padded picture is real. Without one of them, pictures of a batch have one size.
SIZES = ("pixel_attention_mask", "image_sizes", "aspect_ratio_mask", "image_position_ids", "spatial_shapes")

PictureInputs = Mapping[str, Tensor]


def together(examples: Sequence[PictureInputs], *, nested: bool) -> dict[str, Tensor]:
    """The inputs of all examples, in their order; those without pictures have none.

    Processors give a picture (or its tiles, or its patches) along dimension 0. `nested` ones give (1, pictures, ...)
    for one text, which are joined along dimension 1. What differs in size is filled up with zeros, as processors do.
    """
    names = dict.fromkeys(name for each in examples for name in each)
    along = 1 if nested else 0
    return {name: _joined([each[name] for each in examples if name in each], along) for name in names}


def one_each(examples: Sequence[PictureInputs], *, nested: bool) -> bool:
    """Whether every example has exactly one row in every input, of one shape, so that rows are examples."""
    if nested or not examples or not examples[0]:
        return False
    shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in examples]
    return all(each == shapes[0] for each in shapes) and all(shape[:1] == (1,) for shape in shapes[0].values())


def other_size(examples: Sequence[PictureInputs], *, nested: bool) -> int | None:
    """The first example whose pictures cannot be in one batch with those above it."""
    first: dict[str, tuple[int, ...]] = {}
    along = 1 if nested else 0
    for at, each in enumerate(examples):
        if any(name in each for name in SIZES):
            continue
        for name, tensor in each.items():
            shape = (*tensor.shape[:along], *tensor.shape[along + 1 :])
            if first.setdefault(name, shape) != shape:
                return at
    return None


def _joined(tensors: Sequence[Tensor], along: int) -> Tensor:
    largest = [max(each.shape[at] for each in tensors) for at in range(tensors[0].ndim)]
    return torch.cat([_filled(each, largest, along) for each in tensors], dim=along)


def _filled(tensor: Tensor, largest: Sequence[int], along: int) -> Tensor:
    wanted = [size if at == along else most for at, (size, most) in enumerate(zip(tensor.shape, largest, strict=True))]
    if list(tensor.shape) == wanted:
        return tensor
    filled = tensor.new_zeros(wanted)
    filled[tuple(slice(size) for size in tensor.shape)] = tensor
    return filled
