"""The order of examples is arithmetic."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.trainer.data.sampler import Sampler, sequential, split

sizes = st.integers(1, 400)
batches = st.integers(1, 64)
seeds = st.integers(0, 2**53)


@given(examples=sizes, batch=batches, seed=seeds, bucketed=st.booleans(), epoch=st.integers(0, 3))
def test_every_epoch_holds_every_example_once(examples: int, batch: int, seed: int, bucketed: bool, epoch: int) -> None:
    """Bucketing changes who shares a batch, never who is in an epoch, nor how many steps it has."""
    lengths = np.arange(examples)[::-1] % 17 if bucketed else None
    order = Sampler(examples, batch, seed, lengths)
    first = epoch * order.steps_per_epoch + 1
    steps = [order.positions(step) for step in range(first, first + order.steps_per_epoch)]
    assert sorted(np.concatenate(steps)) == list(range(examples))
    assert all(len(step) == batch for step in steps[:-1])


@given(examples=sizes, batch=batches, seed=seeds, step=st.integers(1, 500))
def test_any_step_is_known_without_those_before(examples: int, batch: int, seed: int, step: int) -> None:
    """Asked out of order, or by another object, a step is the same."""
    order = Sampler(examples, batch, seed)
    order.positions(step + 7 * order.steps_per_epoch)
    assert np.array_equal(order.positions(step), Sampler(examples, batch, seed).positions(step))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """Two epochs differ, two seeds differ."""
    order = Sampler(100, 100, 1)
    assert not np.array_equal(order.positions(1), order.positions(2))
    assert not np.array_equal(order.positions(1), Sampler(100, 100, 2).positions(1))


def test_order_is_pinned() -> None:
    """A change of the generator would change every resumed run: these numbers must never change."""
    assert Sampler(10, 10, 42).positions(1).tolist() == PINNED


def test_bucketing_puts_like_lengths_together() -> None:
    """Padding shrinks: the spread of lengths within batches is a fraction of what it was."""
    lengths = np.random.default_rng(0).integers(1, 500, size=2000)
    spread = {}
    for name, known in (("plain", None), ("bucketed", lengths)):
        order = Sampler(2000, 20, 0, known)
        spread[name] = np.mean([np.ptp(lengths[order.positions(step)]) for step in range(1, 101)])
    assert spread["bucketed"] < spread["plain"] / 5


@given(examples=st.integers(2, 300), fraction=st.floats(0.001, 0.9), seed=seeds)
def test_split_parts_everything_once(examples: int, fraction: float, seed: int) -> None:
    """Both parts have at least one example, and together they are all."""
    training, validation = split(examples, fraction=fraction, seed=seed)
    assert sorted([*training, *validation]) == list(range(examples))
    assert len(training) >= 1
    assert len(validation) >= 1


def test_no_fraction_holds_nothing_out() -> None:
    """Without a fraction all examples train."""
    training, validation = split(5, fraction=0.0, seed=0)
    assert (training.tolist(), validation.tolist()) == ([0, 1, 2, 3, 4], [])


def test_evaluation_goes_in_file_order() -> None:
    """Every example once, the last batch smaller."""
    assert [each.tolist() for each in sequential(5, 2)] == [[0, 1], [2, 3], [4]]


PINNED = [2, 4, 5, 0, 9, 8, 1, 7, 3, 6]
