"""Files as records: one dict per JSON line, CSV row or Parquet row, or the problem that stands in its place."""

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE = 1_000_000  # bytes
MAX_COLUMNS = 100_000
#: A row group of Parquet may unpack to so many bytes whatever its size, and beyond that to so many times its size.
PARQUET_FREE = 256 << 20
PARQUET_RATIO = 100
_BOM = b"\xef\xbb\xbf"
_SPREAD = ("[", "{", "[{")  # how pretty-printed JSON begins


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong, where, and what would work. `line` counts from 1; in Parquet it is the row."""

    line: int | None
    field: str | None
    code: str
    message: str

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, "field": self.field, "code": self.code, "message": self.message}


Record = tuple[int, Mapping[str, Any]]


def read_jsonl(path: Path) -> Iterator[Record | LineProblem]:
    """One object per line; blank lines are passed over."""
    for line in _text_lines(path):
        if isinstance(line, LineProblem):
            yield line
        elif line[1].strip() in _SPREAD and line[0] == 1:
            yield LineProblem(
                1, None, "not_json", "one JSON value is spread over many lines; write one object per line"
            )
            return
        elif line[1].strip():
            yield _json_record(*line)


def _json_record(number: int, text: str) -> Record | LineProblem:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKeyError as error:
        return LineProblem(number, str(error), "duplicate_key", f"the key '{error}' stands twice in one object")
    except RecursionError:
        return LineProblem(number, None, "too_deep", "is nested too deeply; an example is flat")
    except json.JSONDecodeError as error:
        return LineProblem(number, None, "not_json", f"is not JSON: {error.msg} at character {error.colno}")
    except ValueError:  # an integer of thousands of digits
        return LineProblem(number, None, "not_json", "holds a number with too many digits")
    if not isinstance(value, dict):
        advice = "write one object per line, without an array around them"
        return LineProblem(number, None, "not_an_object", f"is {kind_of(value)}, not an object; {advice}")
    return number, value


class _DuplicateKeyError(ValueError):
    """A JSON object with one key twice, of which a parser would keep either."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return found


class CsvFile:
    """A CSV file with a header: `columns` first, then `records`."""

    def __init__(self, path: Path) -> None:
        self._problems: list[LineProblem] = []
        self._line = 0  # read last
        self._start: int | None = None  # where the row that is being read begins
        self._rows = csv.reader(self._texts(path), strict=True)
        self.columns: list[str] = []
        self.header_problems: list[LineProblem] = []
        self._read_header()

    def records(self) -> Iterator[Record | LineProblem]:
        if not self.columns:
            return
        while True:
            self._start = None
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                yield from self._drain()
                yield LineProblem(self._start or self._line, None, "not_csv", _not_csv(error))
                return
            yield from self._drain()
            if row is None:
                return
            line = self._start or self._line
            if len(row) == len(self.columns):
                yield line, dict(zip(self.columns, row, strict=True))
            elif row:
                there = f"has {_counted(len(row), 'value')}; the header names {_counted(len(self.columns), 'column')}"
                yield LineProblem(line, None, "ragged_row", f"{there} (a value with a comma needs quotes)")

    def _texts(self, path: Path) -> Iterator[str]:
        for line in _text_lines(path):
            if isinstance(line, LineProblem):
                self._problems.append(line)
            else:
                self._line = line[0]
                self._start = self._start or self._line
                yield line[1] + "\n"

    def _drain(self) -> list[LineProblem]:
        found, self._problems = self._problems, []
        return found

    def _read_header(self) -> None:
        try:
            header = next((row for row in self._rows if row), [])
        except csv.Error as error:
            header = []
            self._problems.append(LineProblem(self._line, None, "not_csv", _not_csv(error)))
        self.header_problems = self._drain()
        columns = [name.strip() for name in header]
        for name in dict.fromkeys(columns):
            if not name:
                message = "the header has an empty column name; name every column"
                self.header_problems.append(LineProblem(self._line, None, "empty_column", message))
            elif columns.count(name) > 1:
                message = f"the header names the column '{name}' {columns.count(name)} times; each needs its own name"
                self.header_problems.append(LineProblem(self._line, name, "duplicate_column", message))
        if not self.header_problems:
            self.columns = columns


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _not_csv(error: csv.Error) -> str:
    if "field limit" in str(error):
        limit = f"{csv.field_size_limit():,}"
        return (
            f"a value has more than {limit} characters, or its quote is never closed (JSONL has room for longer text)"
        )
    return f"is not CSV: {error}; a quote inside quotes is doubled"


class ParquetFile:
    """A Parquet file: `columns` first, then `records`. pyarrow is imported here only."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._errors = (pa.ArrowException, OSError)
        self.columns: list[str] = []
        self.header_problems: list[LineProblem] = []
        try:
            self._file = pq.ParquetFile(path)
        except self._errors as error:
            self.header_problems = [
                LineProblem(None, None, "not_parquet", f"is not a Parquet file: {_first_line(error)}")
            ]
            return
        self.header_problems = list(_bombs(self._file.metadata))
        columns = [str(name) for name in self._file.schema_arrow.names]
        for name in dict.fromkeys(columns):
            if columns.count(name) > 1:
                message = f"the file has {columns.count(name)} columns called '{name}'"
                self.header_problems.append(LineProblem(None, name, "duplicate_column", message))
        if not self.header_problems:
            self.columns = columns

    def records(self, columns: Iterable[str] | None = None) -> Iterator[Record | LineProblem]:
        if not self.columns:
            return
        wanted = self.columns if columns is None else [name for name in self.columns if name in set(columns)]
        number = 0
        try:
            # A row may hold an image: few rows at a time keep memory bounded.
            for batch in self._file.iter_batches(batch_size=256, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except self._errors as error:
            yield LineProblem(number + 1, None, "not_parquet", f"cannot be read: {_first_line(error)}")


def _bombs(metadata: Any) -> Iterator[LineProblem]:
    """Row groups that would unpack to far more than they are: a batch of theirs may not fit into memory."""
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        columns = [group.column(index) for index in range(group.num_columns)]
        packed = sum(max(0, each.total_compressed_size) for each in columns)
        unpacked = sum(max(0, each.total_uncompressed_size) for each in columns)
        if unpacked > PARQUET_FREE and unpacked > PARQUET_RATIO * max(1, packed):
            message = (
                f"row group {at + 1} has {packed:,} bytes and would unpack to {unpacked:,}; write the file with less "
                f"compression ({PARQUET_RATIO} times at most beyond {PARQUET_FREE:,} bytes)"
            )
            yield LineProblem(None, None, "decompression_bomb", message)
            return


def _text_lines(path: Path) -> Iterator[tuple[int, str] | LineProblem]:
    """(line number, text without its end) in constant memory; a line that cannot be text is a LineProblem."""
    offset = 0
    with path.open("rb") as file:
        if _is_utf16(file.read(4)):
            yield LineProblem(1, None, "not_utf8", "the file is UTF-16; save it as UTF-8")
            return
        file.seek(0)
        for number in range(1, 2**63):
            line = file.readline(MAX_LINE + 2)
            if not line:
                return
            length = len(line)
            if length > MAX_LINE and not line.endswith(b"\n"):
                while (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
                    length += len(more)
                length += len(more)
                message = f"has {length:,} bytes; a line has at most {MAX_LINE:,} (Parquet has no such limit)"
                yield LineProblem(number, None, "line_too_long", message)
            else:
                yield _text_line(number, line, offset)
            offset += length


def _is_utf16(head: bytes) -> bool:
    """By its mark, or by every other byte of its first two characters."""
    return head[:2] in (b"\xff\xfe", b"\xfe\xff") or (
        len(head) == 4 and (head[0::2] == b"\0\0") != (head[1::2] == b"\0\0")
    )


def _text_line(number: int, line: bytes, offset: int) -> tuple[int, str] | LineProblem:
    start = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
    if b"\0" in line:
        at = line.index(b"\0")
        return LineProblem(number, None, "nul_byte", f"holds a NUL byte at offset {offset + at} of the file; remove it")
    try:
        return number, line[start:].decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        at = offset + start + error.start
        message = (
            f"byte 0x{line[start + error.start]:02x} at offset {at} of the file is not UTF-8; save the file as UTF-8"
        )
        return LineProblem(number, None, "not_utf8", message)


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object", bytes: "binary"}
    return names.get(type(value), f"a {type(value).__name__}")


def nearest(word: str, words: Iterable[str]) -> str:
    """' (did you mean ...?)', or nothing when no word is near."""
    close = difflib.get_close_matches(word, list(words)[:MAX_COLUMNS], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
