"""Learning rates over a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.trainer.training.schedule import factor


def test_linear_with_warm_up() -> None:
    """Up in equal steps to 1, then down in equal steps; the last update still moves."""
    found = [factor(step, total=6, warmup=2, kind="linear") for step in range(1, 7)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_in_the_middle() -> None:
    """And ends near, not at, nothing."""
    assert factor(51, total=100, warmup=0, kind="cosine") == pytest.approx(0.5)
    assert 0 < factor(100, total=100, warmup=0, kind="cosine") < 0.001


def test_constant_is_constant() -> None:
    """From the end of the warm-up to the end."""
    assert [factor(step, total=5, warmup=1, kind="constant") for step in (1, 2, 5)] == [0.5, 1.0, 1.0]


@given(
    total=st.integers(1, 10_000),
    warmup=st.integers(0, 10_000),
    kind=st.sampled_from(["linear", "cosine", "constant"]),
    data=st.data(),
)
def test_no_update_is_wasted(total: int, warmup: int, kind: str, data: st.DataObject) -> None:
    """Every update of a run has a rate above zero and at most the peak: a rate of 0 would train nothing."""
    step = data.draw(st.integers(1, total))
    assert 0 < factor(step, total=total, warmup=warmup, kind=kind) <= 1
