"""Parquet files as records: one dict per row, or the file's problem. pyarrow is imported here only."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from app.files.lines import Record
from app.files.problems import LineProblem, first_line

#: A row group may unpack to this many bytes whatever its size, and beyond that to MAX_RATIO times its size.
FREE_BYTES: Final = 256 << 20
MAX_RATIO: Final = 100
#: A row may contain an image: few rows at a time bound the memory.
_BATCH_ROWS: Final = 256


class ParquetFile:
    """A Parquet file: `columns` and `header_problems` first, then `records`."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._errors = (pa.ArrowException, OSError)
        self.columns: list[str] = []
        self.header_problems: list[LineProblem] = []
        try:
            self._file = pq.ParquetFile(path)
        except self._errors as error:
            message = f"is not a Parquet file: {first_line(error)}"
            self.header_problems = [LineProblem(None, None, "not_parquet", message)]
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
        """The rows, of `columns` where given."""
        if not self.columns:
            return
        names = self.columns if columns is None else [name for name in self.columns if name in set(columns)]
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except self._errors as error:
            yield LineProblem(number + 1, None, "not_parquet", f"cannot be read: {first_line(error)}")


def _bombs(metadata: Any) -> Iterator[LineProblem]:
    """The first row group that would unpack to far more than its size: its batches may not fit into memory."""
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(column) for column in range(group.num_columns)]
        packed = sum(max(0, column.total_compressed_size) for column in columns)
        unpacked = sum(max(0, column.total_uncompressed_size) for column in columns)
        if unpacked > FREE_BYTES and unpacked > MAX_RATIO * max(1, packed):
            message = (
                f"row group {index + 1} has {packed:,} bytes and would unpack to {unpacked:,}; write it with less "
                f"compression ({MAX_RATIO} times at most beyond {FREE_BYTES:,} bytes)"
            )
            yield LineProblem(None, None, "decompression_bomb", message)
            return
