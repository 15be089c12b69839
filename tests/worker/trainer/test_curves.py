"""The curve of a run as JSON lines, as CSV, and as an event file for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.worker.trainer.attempts import affine_order, attempt
from worker.trainer import curves


def test_event_file_on_request(tmp_path: Path) -> None:
    """TensorBoard's own reader finds the curve that metrics.jsonl has; nobody gets the file unasked."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"n_epochs": 2, "batch_size": 8, "learning_rate": 0.05, "validation_fraction": 0.25}
    done = attempt(affine_order(tmp_path / "with", hyperparameters=settings | {"tensorboard": True}), tmp_path / "with")
    rows = [json.loads(line) for line in (done.place.files / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(done.place.files))
    events.Reload()
    loss = [(each.step, each.value) for each in events.Scalars("train/loss")]
    assert loss == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows if "loss" in row]
    assert [each.step for each in events.Scalars("valid/mse")] == [row["step"] for row in rows if "valid_mse" in row]
    plain = attempt(affine_order(tmp_path / "without", hyperparameters=settings), tmp_path / "without")
    assert not list(plain.place.files.glob("*tfevents*"))


def test_columns_of_the_csv_are_those_of_all_rows(tmp_path: Path) -> None:
    """In order of appearance; a row without a figure leaves its column empty, and no event file is written unasked."""
    curves.write(tmp_path, [{"step": 1, "loss": 2.5}, {"step": 2, "valid_loss": 2.0}], tensorboard=False)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss,valid_loss", "1,2.5,", "2,,2.0"]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "valid_loss": 2.0},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_a_run_without_steps_has_empty_curves(tmp_path: Path) -> None:
    curves.write(tmp_path, [], tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
