"""Training files: which format, which task, whether every line can be trained on, and the examples themselves.

Files are streamed; the standard library reads JSONL and CSV, and pyarrow (imported only then) reads Parquet.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from app.errors import DataError
from app.files.examples import SHAPES, ExampleReader
from app.files.lines import CsvFile, LineProblem, ParquetFile, Record, nearest, read_jsonl

FORMATS = ("jsonl", "csv", "parquet")
TASKS = tuple(SHAPES)
TABULAR = ("tabular-regression", "tabular-classification")
CLASSES = ("text-classification", "token-classification", "image-classification", "tabular-classification")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_SEPARATED = "; the values seem not to be separated by commas"
_PACKED = {b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that the job's `data` names; empty means all but the last, and the last."""

    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> "Columns":
        """From the job's `data`, whose `target` may be one name or a list."""
        data = data or {}
        target = data.get("target") or ()
        return cls(tuple(data.get("features") or ()), (target,) if isinstance(target, str) else tuple(target))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a valid file holds. `features` and `targets` count the numbers of a tabular example."""

    examples: int
    labels: tuple[str, ...] | None
    features: int | None
    targets: int | None
    bytes: int
    columns: Columns = Columns()


def detect(filename: str, head: bytes) -> str:
    """The format, by content where content is clear, else by the name. DataError says which formats there are."""
    suffix = Path(filename).suffix.lower()
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise DataError(
                f"'{filename}' is {what}; upload the JSONL, CSV or Parquet file that is in it", param="file"
            )
    known = _SUFFIXES.get(suffix)
    if known == "parquet":
        raise DataError(f"'{filename}' is called Parquet but does not begin as a Parquet file", param="file")
    if known:
        return known
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"{", b"[")):
        return "jsonl"
    first = text.partition(b"\n")[0]
    if b"," in first and b"\0" not in head:
        return "csv"
    formats = "JSONL (one object per line), CSV (with a header, separated by commas) and Parquet"
    raise DataError(f"the format of '{filename}' is not clear; training files are {formats}", param="file")


def can_read(format: str) -> bool:
    """Whether this installation reads the format: Parquet needs pyarrow, which comes with the worker."""
    return format != "parquet" or find_spec("pyarrow") is not None


def infer_task(path: Path, format: str) -> str:
    """The task that the fields of the first examples speak of; a number as `label` means regression."""
    source = _source(path, format)
    items = [*source.header_problems, *islice(source.records(), 100)]
    records = [item[1] for item in items if not isinstance(item, LineProblem)]
    if not records:
        nothing = LineProblem(None, None, "empty_file", "the file holds no example")
        raise _ProblemList.of([item for item in items if isinstance(item, LineProblem)] or [nothing]).error(
            "training_file"
        )
    fields = {key for record in records for key, value in record.items() if value is not None}
    for task, shapes in SHAPES.items():
        for required, _ in shapes:
            if set(required) <= fields and _fits(task, records, text_numbers=format == "csv"):
                return task
    raise refusal([LineProblem(1, None, "unknown_shape", _no_task(fields))], param="training_file")


def _no_task(fields: Set[str]) -> str:
    """The task whose fields come closest, and which of them is not there."""
    there = ", ".join(f"'{name}'" for name in sorted(fields)[:10]) or "none"
    shapes = [(task, required) for task, each in SHAPES.items() for required, _ in each]
    task, required = max(shapes, key=lambda shape: len(fields & set(shape[1])) / len(shape[1]))
    missing = [name for name in required if name not in fields]
    if len(missing) < len(required):
        near = nearest(missing[0], fields - set(required))
        return f"no task has the fields {there}; {task} has {', '.join(required)}, and '{missing[0]}' is missing{near}"
    hint = _SEPARATED if len(fields) == 1 and any(mark in there for mark in ";\t|") else ""
    return f"no task has the fields {there}; use the fields of one of {', '.join(TASKS)}{hint}"


def holds_images(path: Path, format: str) -> bool:
    """Whether the first example has the fields of image classification."""
    source = _source(path, format)
    first = next((item for item in source.records() if not isinstance(item, LineProblem)), None)
    return first is not None and set(SHAPES["image-classification"][0][0]) <= set(first[1])


def _fits(task: str, records: Sequence[Mapping[str, Any]], *, text_numbers: bool) -> bool:
    """Tasks that share their fields differ in the type of the answer; plain text is causal only without a label."""
    if task == "causal-lm":
        return not any("label" in record or "chosen" in record for record in records)
    if not task.startswith(("text-", "tabular-")):
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
    columns: Columns = Columns(),
    labels: Sequence[str] | None = None,
    held_out: bool = False,
    max_problems: int = 100,
    param: str = "training_file",
) -> Summary:
    """Read every line. DataError carries the first problems, and their total in its message.

    `labels` is the map that labels must come from. A `held_out` file may hold one example, and a label once.
    """
    problems = _ProblemList(max_problems)
    reader, items = _open(path, format, task, columns, labels)
    examples = 0
    for item in items:
        if isinstance(item, LineProblem):
            problems.add(item)
            continue
        examples += reader.read(*item) is not None
        problems.take(reader)
    if not problems.total:
        for problem in _of_the_whole(task, reader, examples, held_out):
            problems.add(problem)
    if problems.total:
        raise problems.error(param)
    return Summary(
        examples=examples,
        labels=(tuple(labels) if labels is not None else _ordered(reader.seen)) if task in CLASSES else None,
        features=(len(reader.features) or reader.width) if task in TABULAR else None,
        targets=(len(reader.target) or reader.targets) if task == "tabular-regression" else None,
        bytes=path.stat().st_size,
        columns=Columns(reader.features, reader.target),
    )


def read(
    path: Path,
    *,
    format: str,
    task: str,
    columns: Columns = Columns(),
    labels: Sequence[str] | None = None,
    param: str = "training_file",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Examples in order, each with its line (in Parquet, its row). DataError at the first problem.

    Labels are indices of `labels` where given, else names.
    """
    reader, items = _open(path, format, task, columns, labels)
    for item in items:
        if isinstance(item, LineProblem):
            raise refusal([item], param=param)
        example = reader.read(*item)
        if example is None:
            raise refusal(reader.problems[:1], param=param)
        yield item[0], example


def refusal(problems: Sequence[LineProblem], *, param: str) -> DataError:
    """One error for problems of a file that were found outside of here."""
    return _ProblemList.of(problems).error(param)


def _open(
    path: Path, format: str, task: str, columns: Columns, labels: Sequence[str] | None
) -> tuple[ExampleReader, Iterator[Record | LineProblem]]:
    if task not in SHAPES:
        raise DataError(f"unknown task '{task}'{nearest(task, TASKS)}; there are {', '.join(TASKS)}", param="task")
    source = _source(path, format)
    problems = list(source.header_problems)
    if not problems and (format == "jsonl" or task not in TABULAR):
        problems = _unused_columns(format, task, columns) + _missing_columns(source, task)
        columns = Columns()
    elif not problems:
        columns, problems = _chosen(source.columns, columns, task)
    reader = ExampleReader(
        task, labels=labels, features=columns.features, target=columns.target, text_numbers=format == "csv"
    )
    if problems:
        return reader, iter(problems)
    if isinstance(source, ParquetFile) and columns.features:
        return reader, source.records([*columns.features, *columns.target])
    return reader, source.records()


class _JsonLines:
    """A JSONL file with the face of a table: it has no header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.columns: list[str] = []
        self.header_problems: list[LineProblem] = []

    def records(self) -> Iterator[Record | LineProblem]:
        return read_jsonl(self._path)


def _source(path: Path, format: str) -> _JsonLines | CsvFile | ParquetFile:
    if not path.stat().st_size:
        source = _JsonLines(path)
        source.header_problems = [LineProblem(None, None, "empty_file", "the file is empty")]
        return source
    if format == "jsonl":
        return _JsonLines(path)
    if format == "csv":
        return CsvFile(path)
    if format == "parquet":
        return ParquetFile(path)
    raise DataError(f"unknown format '{format}'; there are {', '.join(FORMATS)}", param="data.format")


def _unused_columns(format: str, task: str, columns: Columns) -> list[LineProblem]:
    if not columns.features and not columns.target:
        return []
    why = "a JSONL example holds 'x' and 'y' itself" if format == "jsonl" else f"{task} has fields of its own"
    return [LineProblem(None, None, "unused_columns", f"'data' names columns, and {why}; leave 'data' out")]


def _missing_columns(source: _JsonLines | CsvFile | ParquetFile, task: str) -> list[LineProblem]:
    """One problem for the header instead of one for every row."""
    if isinstance(source, _JsonLines):
        return []
    for required, optional in SHAPES[task]:
        if set(required) <= set(source.columns):
            extra = [name for name in source.columns if name not in (*required, *optional)]
            return [_unknown_column(name, task, (*required, *optional)) for name in extra]
    required = max((shape[0] for shape in SHAPES[task]), key=lambda names: len(set(names) & set(source.columns)))
    return [_no_column(name, source.columns) for name in required if name not in source.columns]


def _unknown_column(name: str, task: str, known: tuple[str, ...]) -> LineProblem:
    return LineProblem(1, name, "unknown_field", f"'{name}' is not a column of {task}, which has {', '.join(known)}")


def _no_column(name: str, there: Sequence[str]) -> LineProblem:
    some = ", ".join(f"'{column}'" for column in there[:20]) + (" and more" if len(there) > 20 else "")
    hint = _SEPARATED if len(there) == 1 and any(mark in there[0] for mark in ";\t|") else ""
    return LineProblem(1, name, "missing_column", f"no column '{name}'{nearest(name, there)}; there are {some}{hint}")


def _chosen(there: Sequence[str], columns: Columns, task: str) -> tuple[Columns, list[LineProblem]]:
    """The columns of a table: those named, else the last as target and all others as features."""
    target = columns.target or tuple(there[-1:])
    features = columns.features or tuple(name for name in there if name not in target)
    problems = [_no_column(name, there) for name in (*features, *target) if name not in there]
    names = [*features, *target]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [
        LineProblem(None, name, "duplicate_column", f"'data' names the column '{name}' twice") for name in twice
    ]
    if not features:
        problems.append(LineProblem(1, None, "missing_column", "a table needs a feature column beside its target"))
    if task == "tabular-classification" and len(target) != 1:
        problems.append(LineProblem(None, None, "too_many_targets", f"{task} has one target column, not {len(target)}"))
    return Columns(features, target), problems


def _of_the_whole(task: str, reader: ExampleReader, examples: int, held_out: bool) -> Iterator[LineProblem]:
    """What only the whole file can get wrong."""
    least = 1 if held_out else 2
    if not examples:
        yield LineProblem(None, None, "empty_file", "the file holds no example")
        return
    if examples < least:
        yield LineProblem(None, None, "too_few_examples", f"the file holds {examples} example; training needs {least}")
    if held_out or task not in CLASSES:
        return
    if len(reader.seen) < 2:
        name = next(iter(reader.seen), "")
        yield LineProblem(None, None, "too_few_labels", f"every label is '{name}'; a classification needs at least two")
    if task == "token-classification":  # a rare tag is ordinary; a rare class is a mistake
        return
    field = next(iter(reader.target), "y" if task in TABULAR else "label")
    for label, count in reader.seen.items():
        if count == 1:
            message = f"the label '{label:.60}' is seen once; each label needs at least two examples"
            yield LineProblem(reader.first_line[label], field, "label_seen_once", message)


def _ordered(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Whole numbers by size, anything else by name, so that a map does not depend on the order of lines."""
    if all(label.removeprefix("-").isdecimal() and label.isascii() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


class _ProblemList:
    """The first problems, and how many there were."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self.first: list[LineProblem] = []

    @classmethod
    def of(cls, problems: Sequence[LineProblem]) -> "_ProblemList":
        found = cls(100)
        for problem in problems:
            found.add(problem)
        return found

    def add(self, problem: LineProblem) -> None:
        self.total += 1
        if len(self.first) < self.most:
            self.first.append(problem)

    def take(self, reader: ExampleReader) -> None:
        for problem in reader.problems:
            self.add(problem)
        reader.problems.clear()

    def error(self, param: str) -> DataError:
        first = self.first[0]
        where = "" if first.line is None else f"line {first.line}: "
        count = "1 problem" if self.total == 1 else f"{self.total:,} problems"
        listed = f"; the first {len(self.first)} are listed" if self.total > len(self.first) else ""
        what = "validation" if param == "validation_file" else "training"
        message = f"{count} in the {what} data{listed}. {where}{first.message}"
        return DataError(message, param=param, errors=[problem.to_json() for problem in self.first])
