"""Measures how much each tensor changed: from base to result, or from its initial values where the base lacks it.

Also from the base to each kept checkpoint; those figures are not part of the evidence.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from app.evidence.diff.changes import ByteSource, Span, compare, compare_values
from app.evidence.diff.diff import DiffError, ModelTensor, open_model
from app.evidence.format.digest import FileReading, TensorReading, read_file
from app.evidence.format.statement import Reading, Row
from app.jsontypes import JsonDict
from app.models.tables import Model
from worker.protocol import Workspace

TensorSpans = dict[str, tuple[Span, TensorReading]]
History = dict[str, list[JsonDict]]

_CHECKPOINT: Final = re.compile(r"step-(\d{8})")


def change_statistics(
    rows: Iterable[Row],
    workspace: Workspace,
    *,
    base: Model,
    readings: Mapping[str, TensorReading],
    changed: FileReading,
) -> dict[str, JsonDict]:
    """By result name, for every tensor whose bytes are not the ones that it started with."""
    moved = [row for row in rows if row.changed and row.result is not None]
    if not moved:
        return {}
    statistics = {}
    with ExitStack() as stack:
        wanted = {row.base.name for row in moved if row.base}
        before = _base_tensors(stack, workspace, base, {name: readings[name] for name in wanted})
        initial = _tensors(stack, workspace.initial) if any(row.base is None for row in moved) else {}
        after = _tensors(stack, workspace.changed, reading=changed)
        for row in moved:
            old, new = before.get(row.base.name) if row.base else _initial(row, initial), row.result
            if new is None or old is None or new.name not in after:
                continue
            change = _compare(old, after[new.name][0], new)
            if change is not None:
                statistics[new.name] = change
    return statistics


def checkpoint_statistics(
    rows: Iterable[Row], workspace: Workspace, *, base: Model, readings: Mapping[str, TensorReading], last: int
) -> History:
    """By live name, for base tensors that had moved at the checkpoints on disk before step `last`, oldest first."""
    base_names = {
        row.name: row.base.name for row in rows if row.base and row.result and row.changed and row.part is None
    }
    history: History = {}
    with ExitStack() as stack:
        before = _base_tensors(stack, workspace, base, {name: readings[name] for name in base_names.values()})
        for step, path in _checkpoints(workspace.checkpoints):
            if step >= last:
                continue
            with suppress(OSError, DiffError), open_model(path) as tensors:
                for name in sorted(base_names.keys() & tensors.keys()):
                    now = tensors[name]
                    change = _compare(before[base_names[name]], now.source, now, ranks=False)
                    if change is not None:
                        history.setdefault(name, []).append({"step": step, **change})
    return history


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """Step and weights of each checkpoint. The trainer wrote them: links are skipped."""
    for path in sorted(folder.iterdir()):
        match, weights = _CHECKPOINT.fullmatch(path.name), path / "model.safetensors"
        if match and not path.is_symlink() and not weights.is_symlink() and weights.is_file():
            yield int(match[1]), weights


def _initial(row: Row, initial: TensorSpans) -> tuple[Span, TensorReading] | None:
    """A new tensor's first bytes, if they are the ones that the statement names."""
    if row.initial is None or row.initial.name not in initial:
        return None
    span, reading = initial[row.initial.name]
    return (span, reading) if reading.sha256 == row.initial.sha256 else None


def _compare(
    old: tuple[Span, TensorReading], after: ByteSource, new: Reading | ModelTensor, *, ranks: bool = True
) -> JsonDict | None:
    before, reading = old
    if reading.shape != new.shape:
        return None
    if reading.dtype == new.dtype:
        return compare(before, after, dtype=new.dtype, shape=new.shape, ranks=ranks).to_json()
    change = compare_values(before, after, base_dtype=reading.dtype, result_dtype=new.dtype, shape=new.shape)
    return change.to_json() if change else None


def _base_tensors(
    stack: ExitStack, workspace: Workspace, base: Model, readings: Mapping[str, TensorReading]
) -> TensorSpans:
    """These tensors of the base, as open files."""
    file_of = {each["name"]: each["file"] for each in base.tensors if each["name"] in readings}
    opened = {name: stack.enter_context(_opened(workspace.base / name)) for name in sorted(set(file_of.values()))}
    return {name: (Span(opened[file_of[name]], each.offset), each) for name, each in readings.items()}


def _tensors(stack: ExitStack, path: Path, *, reading: FileReading | None = None) -> TensorSpans:
    """The tensors of a file that the trainer wrote, open until the stack closes; none where there is no file."""
    if not path.is_file():
        return {}
    reading = reading or read_file(path, follow_symlinks=False)
    file = stack.enter_context(_opened(path))
    return {each.name: (Span(file, each.offset), each) for each in reading.tensors}


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
