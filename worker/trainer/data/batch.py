"""What the loop gets from data: examples that can be counted, measured and turned into a batch by position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.trainer.data.sampler import Positions

IGNORED = -100  # a target that carries no loss


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs by the name of the model's argument, what they should give, and what the loss's sum is divided by."""

    inputs: dict[str, Tensor]
    targets: Tensor
    weight: int  # examples, elements or tokens that carry loss
    examples: int
    tokens: int = 0  # without padding; 0 where data has none
    reference: Tensor | None = None  # of preference data
    rows: Positions | None = None  # of `inputs`: which of the data set's sequences each is, the same in every epoch

    @property
    def width(self) -> int:
        """Tokens of the longest sequence, which the others are padded to; 0 where inputs are no tokens."""
        ids = self.inputs.get("input_ids")
        return 0 if ids is None else int(ids.shape[1])

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        reference = None if self.reference is None else self.reference.to(device, non_blocking=True)
        return replace(self, inputs=moved, targets=self.targets.to(device, non_blocking=True), reference=reference)


class Examples(Protocol):
    """Encoded examples. `lengths` is tokens per example, None where examples have no length."""

    @property
    def lengths(self) -> NDArray[np.int64] | None: ...

    def __len__(self) -> int: ...

    def batch(self, positions: Positions) -> Batch: ...
