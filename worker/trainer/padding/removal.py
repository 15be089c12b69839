"""The ways in which a run leaves padding out, and a batch computed in one of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.preference import PreferenceExamples
from worker.trainer.data.sampler import Positions
from worker.trainer.padding.groups import by_length
from worker.trainer.padding.layers import PaddingFreeLayers

#: "layers": the layers run on one row of real tokens; "micro_batches": rows of similar length pass together.
Padding = Literal["kept", "layers", "micro_batches"]
#: What one more pass through the model costs, in tokens.
FIXED: Final = {"cpu": 64, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class Removal:
    """`layers` are the model's, where the way is "layers". `device` is a torch device's type.

    A loss that needs all rows of a batch is not `divisible`: its rows pass in groups, and are joined before it.
    """

    way: Padding = "kept"
    device: str = "cpu"
    divisible: bool = True
    layers: PaddingFreeLayers | None = None

    def computing(self, batch: Batch) -> AbstractContextManager[Batch]:
        """The batch as it is to be passed through the model, forward and backward, inside."""
        if self.layers is not None:
            return self.layers.computing(batch)
        if self.way == "micro_batches" and not self.divisible:
            return nullcontext(replace(batch, groups=self._groups(batch)))
        return nullcontext(batch)

    def pausing(self) -> AbstractContextManager[None]:
        """Inside, passes compute with padding."""
        return nullcontext() if self.layers is None else self.layers.pausing()

    def pieces(self, positions: Positions, examples: Examples) -> list[Positions]:
        """A micro-batch's examples as they pass through the model: all at once, or those of similar length."""
        widths = _widths(examples) if self.way == "micro_batches" and self.divisible else None
        if widths is None:
            return [positions]
        groups = by_length(widths[positions], fixed=FIXED[self.device])
        return [positions[np.sort(rows)] for rows in groups]

    def remove(self) -> None:
        """Give the model's layers back as they were."""
        if self.layers is not None:
            self.layers.remove()

    def _groups(self, batch: Batch) -> tuple[Positions, ...]:
        lengths = batch.inputs["attention_mask"].sum(dim=1).cpu().numpy()
        return tuple(by_length(lengths, fixed=FIXED[self.device]))


def _widths(examples: Examples) -> NDArray[np.int64] | None:
    """The length of each example's longest row; None where a batch cannot be divided."""
    if isinstance(examples, PreferenceExamples):
        both = examples.both.lengths
        return np.maximum(both[: len(examples)], both[len(examples) :])
    return examples.lengths
