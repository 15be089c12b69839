"""The interface between encoded data and the training loop: `Examples` has a length and makes a `Batch` by position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.trainer.data.sampler import Positions

IGNORED = -100  # targets with this value carry no loss, as in torch's cross_entropy


@dataclass(frozen=True, slots=True)
class Batch:
    """Model inputs by argument name, their targets, and the number that the summed loss is divided by."""

    inputs: dict[str, Tensor]
    targets: Tensor
    weight: int  # how many examples, elements or tokens carry loss
    examples: int
    reference: Tensor | None = None  # preference data only: log-probabilities under the base, (examples, 2)
    rows: Positions | None = None  # which sequence of the data set each row of `inputs` is; the same in every epoch
    learned_only: bool = False  # outputs hold the positions whose targets carry loss, in their order, and no others
    queries: Tensor | None = None  # ranking data only: which query each example is about, as a number
    groups: tuple[Positions, ...] = ()  # indices of rows that pass through the model together; empty: all do

    @property
    def width(self) -> int:
        """Length of the longest sequence, to which the others are padded; 0 where inputs are not tokens."""
        ids = self.inputs.get("input_ids")
        return 0 if ids is None else int(ids.shape[1])

    def is_per_token(self, name: str) -> bool:
        """Whether an input has one number for each token, so that it is cut where its row is cut."""
        tensor = self.inputs[name]
        return not name.startswith("pixel") and tensor.ndim == 2 and tensor.shape[1] == self.width

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self

        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        reference = None if self.reference is None else self.reference.to(device, non_blocking=True)
        return replace(self, inputs=moved, targets=self.targets.to(device, non_blocking=True), reference=reference)


class Examples(Protocol):
    """Encoded examples of one file. `lengths` is tokens per example, None for images, tables and pairs.

    `outline` gives the batch with inputs of the right names, shapes and dtypes that hold nothing: it is for passes
    that start behind everything that reads inputs, and costs next to nothing.
    """

    @property
    def lengths(self) -> NDArray[np.int64] | None: ...

    def __len__(self) -> int: ...

    def batch(self, positions: Positions) -> Batch: ...

    def outline(self, positions: Positions) -> Batch: ...


@lru_cache(maxsize=256)
def hollow(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor that holds nothing, in the memory of one element: NaN where the dtype has it, so that a use shows."""
    return torch.full((), float("nan") if dtype.is_floating_point else 0, dtype=dtype).expand(shape)


Kind = TypeVar("Kind", bound=Examples, covariant=True)


class Encoded(NamedTuple, Generic[Kind]):
    """A file's examples, how many of them were cut to the length limit, and notes for the job's events."""

    examples: Kind
    truncated: int = 0
    notes: tuple[str, ...] = ()
