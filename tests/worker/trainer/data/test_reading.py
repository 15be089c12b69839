"""A job's training and validation files as the trainer reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import DataError
from app.files import formats
from app.specs.data import DataSpec
from worker.trainer.data import reading

ROWS = [{"x": [float(n), 1.0], "y": n / 2} for n in range(4)]


def read(folder: Path, validation: list[dict[str, Any]]) -> reading.DataSplits:
    for name, rows in (("train.jsonl", ROWS), ("held.jsonl", validation)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return reading.read(folder, DataSpec(training="train.jsonl", validation="held.jsonl"), task="tabular-regression")


def test_both_files_are_read(tmp_path: Path) -> None:
    """Each whole, with the lines that its rows are on."""
    splits = read(tmp_path, ROWS[:2])
    assert (len(splits.training), len(splits.validation)) == (4, 2)
    assert list(splits.validation_lines) == [1, 2]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"x": [1.0, 2.0, 3.0], "y": 1.0}, "has 3 features, and one of the training file has 2"),
        ({"x": [1.0, 2.0], "y": [1.0, 2.0]}, "has 2 targets, and one of the training file has 1"),
    ],
)
def test_a_validation_file_of_another_width_is_refused(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    """Before training: the first evaluation would end the trainer, once for each attempt that the job has."""
    with pytest.raises(DataError, match=words) as refused:
        read(tmp_path, [row] * 2)
    assert refused.value.param == "validation_file"


def test_what_is_likely_a_mistake_is_warned_of(tmp_path: Path) -> None:
    """The same bytes as both files, and labels that differ by a space: the job's events say so."""
    rows = [{"text": "a", "label": label} for label in ("bad", "bad ") * 2]
    for name in ("train.jsonl", "held.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    data = DataSpec(training="train.jsonl", validation="held.jsonl")
    spaces, same = reading.read(tmp_path, data, task="text-classification").warnings
    assert "differ only by spaces" in spaces and "same bytes" in same


def test_labels_that_are_the_indices_of_the_base(tmp_path: Path) -> None:
    """0 and 1 are the base's two classes, under their names."""
    for name, labels in (("ints", (0, 1)), ("texts", ("0", "1"))):
        rows = [{"text": "a", "label": label} for label in labels * 2]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        data = DataSpec(training=name, format="jsonl")
        splits = reading.read(tmp_path, data, task="text-classification", known_labels=("bad", "good"))
        assert splits.labels == ("bad", "good")
        assert [row["label"] for row in splits.training] == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ["training_file", "validation_file"])
def test_a_file_that_takes_too_long_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for hours for a file that holds far more than its bytes: what was wrong with it is said."""
    slow = tmp_path / {"training_file": "train.jsonl", "validation_file": "held.jsonl"}[name]
    validate = formats.validate

    def timed(path: Path, *, seconds: float, **options: Any) -> Any:
        return validate(path, seconds=-1.0 if path == slow else seconds, **options)

    monkeypatch.setattr(formats, "validate", timed)
    with pytest.raises(DataError, match="not read to its end in 300 seconds") as refused:
        read(tmp_path, ROWS)
    assert (refused.value.param, refused.value.code) == (name, "invalid_training_data")
