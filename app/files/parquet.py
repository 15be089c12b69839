"""Parquet files as records: one dict per row, or the file's problem. pyarrow is imported here only.

A few kilobytes can describe gigabytes: dictionaries and run lengths repeat a value for nothing. So values are counted
by the footer before a page is read, bytes while rows are decoded, and a repeated text is one Python object.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from app.files.fields import LARGEST
from app.files.lines import Record
from app.files.parquet_footer import RowGroup, read_footer
from app.files.problems import LineProblem, first_line

#: A file may decode to this many bytes whatever its size, and beyond that to MAX_RATIO times its size.
FREE_BYTES: Final = 256 << 20
MAX_RATIO: Final = 100
#: What a number, a null or the reference to a text counts for.
_VALUE_BYTES: Final = 16
#: How pandas names a table's index that has no name.
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")
#: Of a batch of rows: a row may contain an image, or thousands of columns.
_BATCH_ROWS: Final = 8192
_BATCH_BYTES: Final = 8 << 20
_BATCH_VALUES: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class Numbers:
    """Rows whose features are finite numbers: a matrix of them is checked and read without a Python object for each."""

    first: int
    x: Any  # a matrix of float64, with a row for each row
    y: Any  # another one, or a list of labels
    names: tuple[str, ...]  # of the columns, features first

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labelled(self) -> bool:
        return isinstance(self.y, list)

    def records(self) -> Iterator[Record]:
        """The rows one by one, as other rows are read."""
        for number, (x, y) in enumerate(zip(self.x.tolist(), self._targets(), strict=True), start=self.first):
            yield number, dict(zip(self.names, [*x, y] if self.labelled else [*x, *y], strict=True))

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The examples and their rows, as other rows become them."""
        for number, (x, y) in enumerate(zip(self.x.tolist(), self._targets(), strict=True), start=self.first):
            yield number, {"x": x, "y": y}

    def _targets(self) -> list[Any]:
        return list(self.y) if self.labelled else list(self.y.tolist())


class ParquetFile:
    """A Parquet file: `columns` and `header_problems` first, then `records`."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # pyarrow's own, and those of Python for names and values that Python has no form for.
        self._errors = (pa.ArrowException, OSError, ValueError, OverflowError, LookupError)
        self._allowed = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)
        self.columns: list[str] = []
        self.empty_columns: list[str] = []  # of nulls alone: as good as absent
        self.notes: list[str] = []
        self.header_problems: list[LineProblem] = []
        try:
            self._groups = read_footer(path)
            self.header_problems = list(_bombs(self._groups, self._allowed))
            if not self.header_problems:
                self._file = pq.ParquetFile(path, read_dictionary=_dictionary_columns(self._groups))
                schema = self._file.schema_arrow
                names = [str(name) for name in schema.names]
                index = {name for name in names if _PANDAS_INDEX.fullmatch(name)}
                self.columns = [name for name in names if name not in index]
                self.notes = [
                    f"the column '{name}' is pandas' index, and is not read" for name in names if name in index
                ]
                self.empty_columns = [str(field.name) for field in schema if pa.types.is_null(field.type)]
        except self._errors as error:
            message = f"is not a Parquet file: {first_line(error)}"
            self.header_problems = [LineProblem(None, None, "not_parquet", message)]

        for name, count in Counter(self.columns).items():
            if count > 1:
                message = f"the file has {count} columns called '{name}'"
                self.header_problems.append(LineProblem(None, name, "duplicate_column", message))
        if self.header_problems:
            self.columns = []

    def records(self, columns: Iterable[str] | None = None) -> Iterator[Record | LineProblem]:
        """The rows, of `columns` where given. Ends with a problem where the file is damaged or decodes to too much."""
        names = set(self.columns if columns is None else columns)
        for item in self._items([name for name in self.columns if name in names], 0):
            assert not isinstance(item, Numbers)  # without features there are none
            yield item

    def examples(
        self, features: Sequence[str], target: Sequence[str], *, labelled: bool
    ) -> Iterator[Record | LineProblem | Numbers]:
        """The rows of these columns: many at once where they are finite numbers, with labels as targets or without."""
        yield from self._items([*features, *target], len(features), labelled=labelled)

    def _items(
        self, selected: list[str], features: int, *, labelled: bool = False
    ) -> Iterator[Record | LineProblem | Numbers]:
        if not self.columns:
            return
        number, decoder = 0, _Decoder(self._allowed)
        try:
            for batch in self._file.iter_batches(batch_size=self._batch_rows(len(selected)), columns=selected):
                places = {name: at for at, name in enumerate(batch.schema.names)}  # by name pyarrow looks at each
                columns = [batch.column(places[name]) for name in selected]
                if features and (found := decoder.table(columns, features, labelled=labelled)) is not None:
                    yield Numbers(number + 1, *found, tuple(selected))
                    number += batch.num_rows
                    continue
                values = [decoder.decode(column) for column in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, dict(zip(selected, row, strict=True))
        except _TooLarge:
            yield LineProblem(number + 1, None, "decompression_bomb", _too_large())
        except self._errors as error:
            yield LineProblem(number + 1, None, "not_parquet", f"cannot be read: {first_line(error)}")

    def _batch_rows(self, columns: int) -> int:
        """How many rows to read at a time, so that an ordinary batch has a few megabytes."""
        rows = sum(group.rows for group in self._groups)
        bytes_of_a_row = sum(group.nbytes for group in self._groups) // max(1, rows)
        return max(1, min(_BATCH_ROWS, _BATCH_VALUES // columns, _BATCH_BYTES // max(1, bytes_of_a_row)))


class _TooLarge(Exception):
    """A file decodes to more bytes than it may."""


class _Decoder:
    """Turns Arrow arrays into Python values, and counts the bytes that they stand for."""

    def __init__(self, allowed: int) -> None:
        self._left = allowed

    def decode(self, array: Any) -> list[Any]:
        """The values of an array; null is None, a decimal a float. Raises _TooLarge."""
        import pyarrow as pa

        kind = array.type
        self._count(_VALUE_BYTES * len(array))
        if pa.types.is_floating(kind) or pa.types.is_integer(kind):
            return list(array.to_pylist() if array.null_count else array.to_numpy(zero_copy_only=False).tolist())
        if pa.types.is_dictionary(kind):
            return self._repeated(array)
        if pa.types.is_struct(kind):
            return self._structs(array)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return self._lists(array)
        if pa.types.is_decimal(kind):
            return [float(value) if isinstance(value, Decimal) else None for value in array.to_pylist()]
        self._count(array.nbytes)
        return list(array.to_pylist())

    def table(self, columns: Sequence[Any], features: int, *, labelled: bool) -> tuple[Any, Any] | None:
        """Features and targets, where all numbers are finite and labels are texts or integers. Raises _TooLarge."""
        if labelled and not _are_labels(columns[-1]):
            return None
        matrix = self._numbers(columns[:-1] if labelled else columns)
        if matrix is None:
            return None
        return (matrix, self.decode(columns[-1])) if labelled else (matrix[:, :features], matrix[:, features:])

    def _numbers(self, columns: Sequence[Any]) -> Any:
        """The columns side by side, if all are finite numbers of float32; else None. Raises _TooLarge."""
        import numpy as np
        import pyarrow as pa

        kinds = [column.type for column in columns]
        if any(column.null_count for column in columns) or not all(
            pa.types.is_floating(kind) or pa.types.is_integer(kind) for kind in kinds
        ):
            return None
        matrix = np.stack([column.to_numpy(zero_copy_only=False).astype(np.float64) for column in columns], axis=1)
        if not (np.abs(matrix) <= LARGEST).all():
            return None
        self._count(_VALUE_BYTES * matrix.size)
        return matrix

    def _repeated(self, array: Any) -> list[Any]:
        """The values of a dictionary array: one object for each text, however often it occurs."""
        counted = array.indices.drop_null().value_counts()
        indices, counts = counted.field("values"), counted.field("counts").to_pylist()
        values = array.dictionary.take(indices).to_pylist()
        repeated = zip(values, counts, strict=True)
        self._count(sum(len(value) * count for value, count in repeated if isinstance(value, str | bytes)))
        by_index = dict(zip(indices.to_pylist(), values, strict=True))
        return list(map(by_index.get, array.indices.to_pylist()))

    def _structs(self, array: Any) -> list[Any]:
        names = [array.type.field(index).name for index in range(array.type.num_fields)]
        fields = [self.decode(field) for field in array.flatten()]
        records: list[Any] = [dict(zip(names, values, strict=True)) for values in zip(*fields, strict=True)]
        records = records or [{} for _ in range(len(array))]
        return [record if valid else None for record, valid in zip(records, array.is_valid().to_pylist(), strict=True)]

    def _lists(self, array: Any) -> list[Any]:
        values, start = self.decode(array.flatten()), 0
        lists: list[Any] = []
        for length in array.value_lengths().to_pylist():
            lists.append(None if length is None else values[start : start + length])
            start += length or 0
        return lists

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _TooLarge


def _are_labels(column: Any) -> bool:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _bombs(groups: Iterable[RowGroup], allowed: int) -> Iterator[LineProblem]:
    """A problem where the footer promises more than the file may decode to: its batches may not fit into memory."""
    for number, group in enumerate(groups, start=1):
        packed = sum(column.packed for column in group.columns)
        unpacked = sum(column.unpacked for column in group.columns)
        if unpacked > FREE_BYTES and unpacked > MAX_RATIO * max(1, packed):
            message = (
                f"row group {number} has {packed:,} bytes and would unpack to {unpacked:,}; write it with less "
                f"compression ({MAX_RATIO} times at most beyond {FREE_BYTES:,} bytes)"
            )
            yield LineProblem(None, None, "decompression_bomb", message)
            return
        allowed -= _VALUE_BYTES * sum(column.values for column in group.columns)
        if allowed < 0:
            yield LineProblem(None, None, "decompression_bomb", _too_large())
            return


def _too_large() -> str:
    return (
        "the file repeats its values so often that it decodes to far more than its size; leave out repeated rows, or "
        f"write JSONL (Parquet may decode to {MAX_RATIO} times its size, or {FREE_BYTES:,} bytes)"
    )


def _dictionary_columns(groups: Iterable[RowGroup]) -> list[str]:
    """Paths of the columns of texts or bytes that are stored as a dictionary in any row group."""
    return sorted({column.path for group in groups for column in group.columns if column.texts_in_dictionary})
