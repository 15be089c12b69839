"""Which examples make step k: arithmetic on (seed, epoch) alone, so that any step can be resumed without replaying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
#: Batches that are sorted by length together.
WINDOW: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Every example once per epoch, `batch_size` a step; the last step of an epoch may be smaller.

    With `lengths`, neighbours in length share a batch: the epoch's order is cut into windows of `WINDOW` batches, each
    is sorted by length and cut into batches, and the batches are shuffled. Which examples an epoch holds, and how many
    steps it has, stay the same.
    """

    examples: int
    batch_size: int
    seed: int
    lengths: NDArray[np.int64] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    def positions(self, step: int) -> Positions:
        """The examples of update `step`, as positions in the training set."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        return _epoch(self, epoch)[index]


def sequential(examples: int, batch_size: int) -> Iterator[Positions]:
    """For evaluation: every example once, in file order."""
    for start in range(0, examples, batch_size):
        yield np.arange(start, min(start + batch_size, examples))


def permutation(count: int, *, seed: int, stream: int) -> Positions:
    """A shuffle of range(count) that depends on these numbers alone, on every machine."""
    generator = np.random.Generator(np.random.Philox(key=[seed % 2**64, stream]))
    return generator.permutation(count)


def split(count: int, *, fraction: float, seed: int) -> tuple[Positions, Positions]:
    """(training, validation) positions, each sorted; at least one example in each part that is asked for."""
    held_out = min(count - 1, max(1, round(count * fraction))) if fraction > 0 else 0
    shuffled = permutation(count, seed=seed, stream=2**63)
    return np.sort(shuffled[held_out:]), np.sort(shuffled[:held_out])


@lru_cache(maxsize=1)
def _epoch(order: Sampler, epoch: int) -> list[Positions]:
    shuffled = permutation(order.examples, seed=order.seed, stream=epoch)
    if order.lengths is not None:
        shuffled = _by_length(shuffled, order)
    batches = [shuffled[at : at + order.batch_size] for at in range(0, order.examples, order.batch_size)]
    if order.lengths is None:
        return batches
    full = batches[: order.examples // order.batch_size]  # the smaller last batch stays last
    mixed = permutation(len(full), seed=order.seed, stream=2**62 + epoch)
    return [full[index] for index in mixed] + batches[len(full) :]


def _by_length(shuffled: Positions, order: Sampler) -> Positions:
    assert order.lengths is not None
    size = WINDOW * order.batch_size
    windows = [shuffled[at : at + size] for at in range(0, order.examples, size)]
    return np.concatenate([window[np.argsort(order.lengths[window], kind="stable")] for window in windows])
