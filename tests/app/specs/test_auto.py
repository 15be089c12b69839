"""The rules of auto: how long a run is, and how many examples are held out."""

import pytest

from app.specs import auto


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0, 0), (0.001, 1), (0.25, 25), (0.9, 90)])
def test_examples_are_held_out(fraction: float, held_out: int) -> None:
    """At least one, and never the last one that is left to train on."""
    assert auto.held_out(100, fraction) == held_out
    assert auto.held_out(2, 0.9) == 1


def test_max_steps_is_the_number_of_steps() -> None:
    """However many epochs these are."""
    assert auto.total_steps(10, n_epochs=3, batch_size=4, max_steps=None) == 9
    assert auto.total_steps(10, n_epochs=3, batch_size=4, max_steps=2) == 2
    assert auto.total_steps(10, n_epochs=3, batch_size=4, max_steps=50) == 50


@pytest.mark.parametrize(("examples", "n_epochs", "batch_size"), [
    (1, 25, 1), (10, 10, 10), (33, 4, 16), (34, 3, 16), (8_000, 3, 16), (12_500, 2, 32), (30_000, 1, 64),
    (10**6, 1, 256),
])  # fmt: skip
def test_small_files_are_seen_more_often(examples: int, n_epochs: int, batch_size: int) -> None:
    """Until 100 examples are seen; of large files at most 25,000. A batch is 0.2 % of them, as a power of two."""
    assert (auto.n_epochs(examples), auto.batch_size(examples)) == (n_epochs, batch_size)
