"""The gain of kept results, measured on the run's own passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.worker.trainer.training.test_prefix_cache import FIXED, encoder, run
from worker.trainer.training import prefix_gain


def gain_of(root: Path, **wanted: Any) -> float | None:
    (report,) = run(encoder, root, **FIXED, **wanted).of("prefix_cache")
    gain: float | None = report["gain"]
    return gain


def test_a_short_run_does_not_measure(tmp_path: Path) -> None:
    """15 passes are over sooner than the question."""
    assert gain_of(tmp_path) is None


def test_a_longer_run_does(tmp_path: Path) -> None:
    """The same run, with the same bits as one that did not measure."""
    assert gain_of(tmp_path, n_epochs=10) is not None


def test_a_pass_that_fails_costs_the_figure_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out here may suffice for the steps, which can be cut smaller."""

    def failing(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(prefix_gain, "LEAST_PASSES", 1)
    measure = prefix_gain._seconds_of_a_pass

    def broken(request: Any, prefix: Any, results: Any) -> float | None:
        with monkeypatch.context() as patch:
            patch.setattr(type(results), "get", failing)
            return measure(request, prefix, results)

    monkeypatch.setattr(prefix_gain, "_seconds_of_a_pass", broken)
    assert gain_of(tmp_path) is None
