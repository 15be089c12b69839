"""Training files: their format, their task, the check of every line, and their examples.

Files are streamed. The standard library reads JSONL and CSV; pyarrow reads Parquet and is imported only then.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from app.errors import DataError
from app.files import columns as columns_of
from app.files.columns import LAST_IS_TARGET, Columns
from app.files.csv_rows import CsvFile
from app.files.examples import SHAPES, ExampleReader
from app.files.labels import in_order, lookalikes
from app.files.lines import MAX_LINE, MAX_PICTURE_LINE, Record, read_jsonl
from app.files.parquet import Numbers, ParquetFile
from app.files.picture_chats import has_pictures
from app.files.problems import LineProblem, ProblemList, nearest

FORMATS = ("jsonl", "csv", "parquet")
TASKS = tuple(SHAPES)
TABULAR = ("tabular-regression", "tabular-classification")
CLASSES = ("text-classification", "token-classification", "image-classification", "tabular-classification")
#: Tasks with texts and pictures, whose lines may be longer.
_PICTURES = ("image-text", "contrastive-image-text")
_JSON = (".jsonl", ".ndjson", ".json")
_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv"} | dict.fromkeys(_JSON, "jsonl")
#: A warning. Its metrics are the training file's own.
SAME_FILES = "the validation file has the same bytes as the training file, so it does not show what the model learned"
_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".ods", ".numbers")
_POINTER = b"version https://git-lfs.github.com/"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_PACKED = {b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"\xfd7zXZ": "xz"}


class OutOfTime(Exception):
    """A file was not read to its end within the time that the caller had for it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a valid file contains. `features` and `targets` count the numbers of a tabular example."""

    examples: int
    labels: tuple[str, ...] | None
    features: int | None
    targets: int | None
    bytes: int
    columns: Columns = LAST_IS_TARGET
    warnings: tuple[str, ...] = ()  # of what is accepted, and is likely a mistake


def detect(filename: str, head: bytes) -> str:
    """The format of a file, by its first bytes where they are clear, else by its name. Raises DataError."""
    suffix = Path(filename).suffix.lower()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(_POINTER):
        message = f"'{filename}' is a Git LFS pointer, a few lines in place of the file; run 'git lfs pull' first"
        raise DataError(message, param="file")
    if suffix in _SPREADSHEETS or head.startswith(_OLD_EXCEL):
        raise DataError(f"'{filename}' is a spreadsheet; save it as CSV in UTF-8, and upload that", param="file")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise DataError(f"'{filename}' is {what}; upload the JSONL, CSV or Parquet file inside it", param="file")
    known = _SUFFIXES.get(suffix)
    if known == "parquet":
        raise DataError(f"'{filename}' has the name of a Parquet file but does not start like one", param="file")
    if known:
        return known
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"{", b"[")):
        return "jsonl"
    first = text.partition(b"\n")[0]
    if b"," in first and b"\0" not in head:
        return "csv"
    formats = "JSONL (one object per line) or one JSON array, CSV (with a header) and Parquet"
    raise DataError(f"cannot tell the format of '{filename}'; training files are {formats}", param="file")


def can_read(format: str) -> bool:
    """Whether this installation reads the format: Parquet needs pyarrow, which the worker's installation has."""
    return format != "parquet" or find_spec("pyarrow") is not None


def infer_task(path: Path, format: str) -> str:
    """The task, from the fields of the first 100 examples; a number as `label` means regression. Raises DataError."""
    source = _source(path, format)
    items = [*source.header_problems, *islice(source.records(), 100)]
    records = [item[1] for item in items if not isinstance(item, LineProblem)]
    if not records:
        nothing = LineProblem(None, None, "empty_file", "the file contains no example")
        raise ProblemList.of([item for item in items if isinstance(item, LineProblem)] or [nothing]).error(
            "training_file"
        )
    fields = {key for record in records for key, value in record.items() if value is not None}
    for task, shapes in SHAPES.items():
        for required, _ in shapes:
            if set(required) <= fields and _fits(task, records, text_numbers=format == "csv"):
                return task
    raise refusal([LineProblem(1, None, "unknown_shape", _no_task(fields))], param="training_file")


def _no_task(fields: Set[str]) -> str:
    """A message with the task whose fields come closest, and a field that is missing for it."""
    present = ", ".join(f"'{name}'" for name in sorted(fields)[:10])
    if not fields:
        return f"has no field with a value; use the fields of one of {', '.join(TASKS)}"
    if {"text", "labels"} <= fields:
        return (
            f"no task has the fields {present}; text-classification has text, label: one string or whole number for "
            "each example (several labels for one text are not supported)"
        )
    shapes = [(task, required) for task, alternatives in SHAPES.items() for required, _ in alternatives]
    task, required = max(shapes, key=lambda shape: len(fields & set(shape[1])) / len(shape[1]))
    missing = [name for name in required if name not in fields]
    if not missing:
        return f"no task has the fields {present}; leave out those beside {', '.join(required)}, or name the task"
    if len(missing) < len(required):
        near = nearest(missing[0], fields - set(required))
        return (
            f"no task has the fields {present}; {task} has {', '.join(required)}, and '{missing[0]}' is missing{near}"
        )
    hint = columns_of.SEPARATED if len(fields) == 1 and "|" in present else ""
    return f"no task has the fields {present}; use the fields of one of {', '.join(TASKS)}{hint}"


def greatest_class(path: Path, format: str) -> int | None:
    """The largest `label` of the first 100 examples, where all are whole numbers from 0 on; None where any is not."""
    records = (item[1] for item in islice(_source(path, format).records(), 100) if not isinstance(item, LineProblem))
    labels = [record["label"] for record in records if record.get("label") is not None]
    whole = [str(label) for label in labels if isinstance(label, int | str) and not isinstance(label, bool)]
    if len(whole) < len(labels) or not all(
        label.isascii() and label.isdecimal() and len(label) < 10 for label in whole
    ):
        return None
    return max(map(int, whole), default=None)


def holds_images(path: Path, format: str) -> bool:
    """Whether the first example has the fields of image classification."""
    source = _source(path, format)
    first = next((item for item in source.records() if not isinstance(item, LineProblem)), None)
    return first is not None and set(SHAPES["image-classification"][0][0]) <= set(first[1])


def _fits(task: str, records: Sequence[Mapping[str, Any]], *, text_numbers: bool) -> bool:
    """Whether the records fit a task beyond their fields: by pictures and by the type of the label.

    Causal text has no label.
    """
    if task in ("causal-lm", "image-text") and any(map(has_pictures, records)) != (task == "image-text"):
        return False
    if task == "causal-lm":
        return not any(
            record.get(name) is not None for record in records for name in ("label", "labels", "chosen", "image")
        )
    if not task.endswith(("-classification", "-regression")) or not task.startswith(("text-", "tabular-")):
        return True
    name = "label" if task.startswith("text-") else "y"
    values = [record[name] for record in records if record.get(name) is not None]
    return all(_numeric(value, text_numbers) for value in values) == task.endswith("regression")


def _numeric(value: Any, text_numbers: bool) -> bool:
    if text_numbers and isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int | float | list) and not isinstance(value, bool)


def validate(
    path: Path,
    *,
    format: str,
    task: str,
    columns: Columns = LAST_IS_TARGET,
    labels: Sequence[str] | None = None,
    held_out: bool = False,
    max_problems: int = 100,
    seconds: float = math.inf,
    param: str = "training_file",
) -> Summary:
    """Check every line. Raises DataError with the first problems, and their total in its message.

    Raises OutOfTime when the file is not read to its end within `seconds`.

    `labels` is the label map, if given. A `held_out` file may have a single example, and single examples of a label.
    """
    problems = ProblemList(max_problems)
    deadline = time.monotonic() + seconds
    reader, items = _open(path, format, task, columns, labels)
    examples = 0
    for item in items:
        if time.monotonic() > deadline:
            raise OutOfTime
        if isinstance(item, LineProblem):
            problems.add(item)
            continue
        if isinstance(item, Numbers) and _labelled(reader, item) is not None:
            examples += len(item)
            continue
        for record in item.records() if isinstance(item, Numbers) else (item,):
            examples += reader.read(*record) is not None
            if reader.problems:
                problems.take(reader.problems)
    if not problems.total:
        for problem in _of_the_whole(task, reader, examples, held_out):
            problems.add(problem)
    if problems.total:
        raise problems.error(param)
    return Summary(
        examples=examples,
        labels=(tuple(labels) if labels is not None else in_order(reader.seen)) if task in CLASSES else None,
        features=(len(reader.features) or reader.width) if task in TABULAR else None,
        targets=(len(reader.target) or reader.targets) if task == "tabular-regression" else None,
        bytes=path.stat().st_size,
        columns=Columns(reader.features, reader.target),
        warnings=(*reader.notes, *lookalikes(reader.seen)),
    )


def refuse_other_width(training: Summary, validation: Summary) -> None:
    """DataError where tabular examples of the two files have other numbers of features or targets."""
    for what, width, other in (
        ("features", training.features, validation.features),
        ("targets", training.targets, validation.targets),
    ):
        if width != other:
            message = f"an example has {other} {what}, and one of the training file has {width}"
            raise DataError(message, param="validation_file", code="invalid_training_data")


def read(
    path: Path,
    *,
    format: str,
    task: str,
    columns: Columns = LAST_IS_TARGET,
    labels: Sequence[str] | None = None,
    param: str = "training_file",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, example) in order; in Parquet the line is the row. Raises DataError at the first problem.

    Labels are indices into `labels` where given, else names.
    """
    for item in blocks(path, format=format, task=task, columns=columns, labels=labels, param=param):
        if isinstance(item, Numbers):
            yield from item.examples()
        else:
            yield item


def blocks(
    path: Path,
    *,
    format: str,
    task: str,
    columns: Columns = LAST_IS_TARGET,
    labels: Sequence[str] | None = None,
    param: str = "training_file",
) -> Iterator[tuple[int, dict[str, Any]] | Numbers]:
    """What `read` yields, but rows of numbers many at once where the file has them so."""
    reader, items = _open(path, format, task, columns, labels)
    for item in items:
        if isinstance(item, LineProblem):
            raise refusal([item], param=param)
        if isinstance(item, Numbers) and (block := _labelled(reader, item)) is not None:
            yield block
            continue
        for record in item.records() if isinstance(item, Numbers) else (item,):
            example = reader.read(*record)
            if example is None:
                raise refusal(reader.problems[:1], param=param)
            yield record[0], example


def _labelled(reader: ExampleReader, block: Numbers) -> Numbers | None:
    """The block with its labels as examples have them; None where one of them is wrong."""
    if not block.labelled:
        return block
    found = reader.labels_of(block.first, block.y)
    return None if found is None else replace(block, y=found)


def refusal(problems: Sequence[LineProblem], *, param: str) -> DataError:
    """One DataError for problems of a file that another module found."""
    return ProblemList.of(problems).error(param)


def _open(
    path: Path, format: str, task: str, columns: Columns, labels: Sequence[str] | None
) -> tuple[ExampleReader, Iterator[Record | LineProblem | Numbers]]:
    if task not in SHAPES:
        raise DataError(f"unknown task '{task}'{nearest(task, TASKS)}; tasks are {', '.join(TASKS)}", param="task")
    source = _source(path, format, max_line=MAX_PICTURE_LINE if task in _PICTURES else MAX_LINE)
    problems = list(source.header_problems)
    if not problems and (format == "jsonl" or task not in TABULAR):
        problems = columns_of.unused(format, task, columns)
        if not isinstance(source, _JsonLines):
            problems += columns_of.missing(source.columns, set(source.empty_columns), task)
        columns = LAST_IS_TARGET
    elif not problems:
        columns, problems = columns_of.chosen(source.columns, columns, task)
    reader = ExampleReader(
        task, labels=labels, features=columns.features, target=columns.target, text_numbers=format == "csv"
    )
    reader.notes = source.notes
    if problems:
        return reader, iter(problems)
    if isinstance(source, ParquetFile) and columns.features:
        return reader, source.examples(columns.features, columns.target, labelled=task == "tabular-classification")
    return reader, source.records()


class _JsonLines:
    """A JSONL file with the interface of a table; it has no header."""

    def __init__(self, path: Path, *, max_line: int = MAX_LINE) -> None:
        self._path = path
        self._max_line = max_line
        self.columns: list[str] = []
        self.empty_columns: list[str] = []
        self.notes: list[str] = []
        self.header_problems: list[LineProblem] = []

    def records(self) -> Iterator[Record | LineProblem]:
        return read_jsonl(self._path, max_line=self._max_line)


def _source(path: Path, format: str, *, max_line: int = MAX_LINE) -> _JsonLines | CsvFile | ParquetFile:
    if not path.stat().st_size:
        source = _JsonLines(path)
        source.header_problems = [LineProblem(None, None, "empty_file", "the file is empty")]
        return source
    if format == "jsonl":
        return _JsonLines(path, max_line=max_line)
    if format == "csv":
        return CsvFile(path)
    if format == "parquet":
        return ParquetFile(path)
    raise DataError(f"unknown format '{format}'; formats are {', '.join(FORMATS)}", param="data.format")


def _of_the_whole(task: str, reader: ExampleReader, examples: int, held_out: bool) -> Iterator[LineProblem]:
    """Problems of the file as a whole: too few examples or labels."""
    least = 1 if held_out else 2
    if not examples:
        yield LineProblem(None, None, "empty_file", "the file contains no example")
        return
    if examples < least:
        yield LineProblem(
            None, None, "too_few_examples", f"the file contains {examples} example; training needs at least {least}"
        )
    if held_out or task not in CLASSES:
        return
    if len(reader.seen) < 2:
        name = next(iter(reader.seen), "")
        yield LineProblem(
            None, None, "too_few_labels", f"every label is '{name}'; classification needs at least two labels"
        )
    if task == "token-classification":  # a rare tag is common; a rare class is likely a mistake
        return
    field = next(iter(reader.target), "y" if task in TABULAR else "label")
    for label, count in reader.seen.items():
        if count == 1:
            message = f"the label '{label:.60}' occurs once; each label needs at least two examples"
            yield LineProblem(reader.first_line[label], field, "label_seen_once", message)
