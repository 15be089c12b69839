"""The examples of each training step, computed from (seed, epoch) alone, so that any step resumes without a replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.specs import auto

Positions = NDArray[np.int64]
#: Number of batches whose examples are sorted by length together.
WINDOW: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Shuffles per epoch and takes `batch_size` examples a step; the last step of an epoch may be smaller.

    With `lengths`, examples of similar length share a batch: the shuffled epoch is cut into windows of `WINDOW`
    batches, each window is sorted by length and cut into batches, and the batches are shuffled. An epoch holds the
    same examples, in as many steps, as without.
    """

    examples: int
    batch_size: int
    seed: int
    lengths: NDArray[np.int64] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    def positions(self, step: int) -> Positions:
        """Positions in the training set of the examples of update `step`, counted from 1."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        shuffled, mixed = _epoch(self, epoch)
        batch = index if index >= len(mixed) else int(mixed[index])
        return shuffled[batch * self.batch_size : (batch + 1) * self.batch_size]


def sequential(examples: int, batch_size: int) -> Iterator[Positions]:
    """Batches for evaluation: every example once, in the order of the file."""
    for start in range(0, examples, batch_size):
        yield np.arange(start, min(start + batch_size, examples))


def permutation(count: int, *, seed: int, stream: int) -> Positions:
    """A shuffle of range(count) that is the same on every machine for the same seed and stream."""
    generator = np.random.Generator(np.random.Philox(key=[seed % 2**64, stream]))
    return generator.permutation(count)


def split(count: int, *, fraction: float, seed: int) -> tuple[Positions, Positions]:
    """(training, validation) positions, each sorted. Validation has at least one where `fraction` is above 0."""
    held_out = auto.held_out(count, fraction)
    shuffled = permutation(count, seed=seed, stream=2**63)
    return np.sort(shuffled[held_out:]), np.sort(shuffled[:held_out])


@lru_cache(maxsize=1)
def _epoch(sampler: Sampler, epoch: int) -> tuple[Positions, Positions]:
    """The examples of an epoch in its order, and the order of its first batches where that is another one."""
    shuffled = permutation(sampler.examples, seed=sampler.seed, stream=epoch)
    if sampler.lengths is None:
        return shuffled, shuffled[:0]
    size = WINDOW * sampler.batch_size
    for at in range(0, sampler.examples, size):
        window = shuffled[at : at + size]
        shuffled[at : at + size] = window[np.argsort(sampler.lengths[window], kind="stable")]
    full = sampler.examples // sampler.batch_size  # the smaller last batch stays last
    return shuffled, permutation(full, seed=sampler.seed, stream=2**62 + epoch)
