"""A job's training and validation files to examples and a label map. Every line is checked before the first is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import DataError
from app.files import formats
from worker.trainer.data.sampler import split

Row = dict[str, Any]
Numbered = tuple[int, Row]  # with its line
VALIDATION = "validation_file"


@dataclass(frozen=True, slots=True)
class DataSplits:
    """Rows in file order; `labels` names the classes in the order of their indices, None for other tasks."""

    training: list[Row]
    validation: list[Row]
    labels: tuple[str, ...] | None
    training_lines: tuple[int, ...]  # where in its file each row stands
    validation_lines: tuple[int, ...]


def read(
    workspace: Path,
    data: Mapping[str, Any],
    *,
    task: str,
    known_labels: Sequence[str] | None = None,
    fraction: float = 0.0,
    seed: int = 0,
) -> DataSplits:
    """The files that `data` names. `known_labels`, a base's own map, is kept where it holds every label.

    Without a validation file, `fraction` of the training file is held out, chosen by `seed`. DataError names lines.
    """
    path, columns = workspace / data["training"], formats.Columns.from_json(data)
    form = data.get("format") or formats.detect(path.name, _head(path))
    labels = formats.validate(path, format=form, task=task, columns=columns).labels
    if labels is not None and set(labels) <= set(known_labels or ()):
        labels = tuple(known_labels or ())
    rows = list(formats.read(path, format=form, task=task, columns=columns, labels=labels))
    if data.get("validation"):
        held_out = workspace / data["validation"]
        other = data.get("validation_format") or formats.detect(held_out.name, _head(held_out))
        formats.validate(
            held_out, format=other, task=task, columns=columns, labels=labels, held_out=True, param=VALIDATION
        )
        rest = formats.read(held_out, format=other, task=task, columns=columns, labels=labels, param=VALIDATION)
        return _source(rows, list(rest), labels)
    if fraction > 0 and len(rows) < 2:
        message = f"there is {len(rows)} example, so none can be held out; give a validation file or more examples"
        raise DataError(message, param="hyperparameters.validation_fraction")
    training, validation = split(len(rows), fraction=fraction, seed=seed)
    return _source([rows[at] for at in training], [rows[at] for at in validation], labels)


def _source(training: list[Numbered], validation: list[Numbered], labels: tuple[str, ...] | None) -> DataSplits:
    return DataSplits(
        training=[row for _, row in training],
        validation=[row for _, row in validation],
        labels=labels,
        training_lines=tuple(line for line, _ in training),
        validation_lines=tuple(line for line, _ in validation),
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)
