"""Data and model that do not fit are refused before the first step."""

from __future__ import annotations

from pathlib import Path

from tests.worker.trainer.attempts import affine_order, attempt


def test_data_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    """Seven features for a model of ten: said before training, with the shapes."""
    rows = [{"x": [float(i)] * 7, "y": [1.0] * 10} for i in range(8)]
    done = attempt(affine_order(tmp_path, rows=rows), tmp_path)
    assert (done.code, done.failure["code"]) == (1, "data_does_not_fit_model")
    assert "(2, 7)" in done.failure["message"]
