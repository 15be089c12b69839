"""The rows of a table of numbers, as a matrix: as Python objects they take several times the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from app.files.parquet import Numbers

Row = dict[str, Any]
#: Rows that are gathered as Python objects before they become a part of the matrix.
_GATHERED: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Table(Sequence[Row]):
    """Rows `{"x": [numbers], "y": [numbers]}`, or `{"x": [numbers], "y": index}` of a label."""

    x: NDArray[np.float64]  # a row for each row
    y: NDArray[Any]  # another matrix, or indices of labels

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Table:
        """The same rows."""
        return read((at, dict(row)) for at, row in enumerate(rows))[0]

    def __len__(self) -> int:
        return len(self.x)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Table: ...
    def __getitem__(self, at: int | slice) -> Row | Table:
        if isinstance(at, slice):
            return Table(self.x[at], self.y[at])
        return {"x": self.x[at].tolist(), "y": self.y[at].tolist()}

    def take(self, positions: NDArray[np.int64]) -> Table:
        return Table(self.x[positions], self.y[positions])


def read(items: Iterable[tuple[int, Row] | Numbers]) -> tuple[Table, NDArray[np.int64]]:
    """The examples of a file, of which there is one at least, and the lines that they are on."""
    lines, x, y = (np.concatenate(parts) for parts in zip(*_parts(items), strict=True))
    return Table(x, y), lines


def _parts(items: Iterable[tuple[int, Row] | Numbers]) -> Iterator[tuple[NDArray[Any], ...]]:
    gathered: list[tuple[int, Row]] = []
    for item in items:
        if not isinstance(item, Numbers):
            gathered.append(item)
        if gathered and (isinstance(item, Numbers) or len(gathered) == _GATHERED):
            yield _arrays(gathered)
            gathered = []
        if isinstance(item, Numbers):
            yield np.arange(item.first, item.first + len(item)), item.x, np.array(item.y)
    if gathered:
        yield _arrays(gathered)


def _arrays(rows: Sequence[tuple[int, Row]]) -> tuple[NDArray[Any], ...]:
    lines = np.array([line for line, _ in rows])
    return lines, np.array([row["x"] for _, row in rows], dtype=np.float64), np.array([row["y"] for _, row in rows])
