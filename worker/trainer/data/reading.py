"""Reads and checks a job's training and validation files, and collects the label map."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import DataError
from app.files import formats
from app.files.columns import Columns
from app.files.labels import kept_map
from app.specs.data import DataSpec
from worker.trainer.data import table
from worker.trainer.data.rows import StoredRows, store
from worker.trainer.data.sampler import split
from worker.trainer.data.table import Row, Table

Rows = Sequence[Row]
Lines = NDArray[np.int64]
VALIDATION = "validation_file"
#: A file has this long to be checked, and a second more for each so many bytes: twenty times what it takes.
LEAST_SECONDS, SLOWEST = 300.0, 1e6


@dataclass(frozen=True, slots=True)
class DataSplits:
    """Training and validation rows in file order. `labels` are class names by index, None for tasks without classes.

    `folder` takes files for what is made of them and does not fit in memory.
    """

    training: Rows
    validation: Rows
    labels: tuple[str, ...] | None
    training_lines: Sequence[int]  # the line of each row in its file
    validation_lines: Sequence[int]
    folder: Path
    warnings: tuple[str, ...] = ()  # of what is accepted, and is likely a mistake: for the job's events
    written: tuple[str, ...] | None = None  # the labels as the training file has them, by index


def read(
    workspace: Path,
    data: DataSpec,
    *,
    task: str,
    known_labels: Sequence[str] | None = None,
    fraction: float = 0.0,
    seed: int = 0,
) -> DataSplits:
    """Reads the files that `data` names. Every line is checked before the first is used; DataError names lines.

    Rows that do not fit in memory are in files of `workspace`: OSError where its disk is full.

    `known_labels`, the label map of the base, is kept where it holds every label of the data, or where these are its
    indices. Without a validation
    file, `fraction` of the training file is held out, chosen by `seed`.
    """
    path, columns = workspace / training_path(data), Columns.of(data)
    form = data.format or formats.detect(path.name, head(path))
    summary = _checked(path, format=form, task=task, columns=columns)
    labels = None if summary.labels is None else kept_map(summary.labels, known_labels)
    rows, lines = _rows(path, workspace, format=form, task=task, columns=columns, labels=labels)

    if data.validation:
        held_out = workspace / data.validation
        other = data.validation_format or formats.detect(held_out.name, head(held_out))
        other_summary = _checked(
            held_out, format=other, task=task, columns=columns, labels=labels, held_out=True, param=VALIDATION
        )
        formats.refuse_other_width(summary, other_summary)
        rest = _rows(held_out, workspace, format=other, task=task, columns=columns, labels=labels, param=VALIDATION)
        same = (formats.SAME_FILES,) if filecmp.cmp(path, held_out, shallow=False) else ()
        warnings = (*summary.warnings, *same)
        return _splits(workspace, (rows, lines), rest, labels, warnings=warnings, own=summary.labels)

    if fraction > 0 and len(rows) < 2:
        message = f"there is {len(rows)} example, so none can be held out; give a validation file or more examples"
        raise DataError(message, param="hyperparameters.validation_fraction")

    kept, held = split(len(rows), fraction=fraction, seed=seed)
    training, validation = ((rows.take(each), lines[each]) for each in (kept, held))
    if not len(held):
        training = (rows, lines)  # without a list of all of them
    return _splits(workspace, training, validation, labels, warnings=summary.warnings, own=summary.labels)


def _rows(path: Path, workspace: Path, *, task: str, **options: Any) -> tuple[Table | StoredRows, Lines]:
    """The examples of a file and their lines; those of a table as a matrix."""
    if task in formats.TABULAR:
        return table.read(formats.blocks(path, task=task, **options))
    return store(formats.read(path, task=task, **options), workspace)


def _checked(path: Path, *, param: str = "training_file", **options: Any) -> formats.Summary:
    """What the file contains. DataError for wrong lines, and for a file that takes many times longer than its size."""
    size = path.stat().st_size
    seconds = LEAST_SECONDS + size / SLOWEST
    try:
        return formats.validate(path, param=param, seconds=seconds, **options)
    except formats.OutOfTime:
        message = (
            f"the file was not read to its end in {seconds:.0f} seconds, which is far more than {size:,} bytes take; "
            "write it as JSONL, or with fewer rows and columns in a row group"
        )
        raise DataError(message, param=param, code="invalid_training_data") from None


def training_path(data: DataSpec) -> str:
    """Relative to the workspace. DataError where the work order has none."""
    if data.training is None:
        raise DataError("the work order names no training file", param="training_file")
    return data.training


def _splits(
    folder: Path,
    training: tuple[Rows, Lines],
    validation: tuple[Rows, Lines],
    labels: tuple[str, ...] | None,
    *,
    warnings: tuple[str, ...],
    own: tuple[str, ...] | None,
) -> DataSplits:
    return DataSplits(
        training=training[0],
        validation=validation[0],
        labels=labels,
        training_lines=training[1].data,
        validation_lines=validation[1].data,
        folder=folder,
        warnings=warnings,
        written=_written(labels, own),
    )


def _written(labels: tuple[str, ...] | None, own: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The name in the file of each index of the label map: the map's own, or the index where the file has indices."""
    if labels is None or own is None or set(own) <= set(labels):
        return labels
    return tuple(str(index) for index in range(len(labels)))


def head(path: Path) -> bytes:
    """The bytes from which a file's format is seen."""
    with path.open("rb") as file:
        return file.read(4096)
