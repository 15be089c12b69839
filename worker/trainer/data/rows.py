"""Rows of a training file, kept as JSON with the bytes of pictures behind it, and decoded when they are asked for."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.flat import Flat
from worker.trainer.data.table import Row

#: Before a row: the length of its JSON, and how many bytes objects come behind that.
_HEAD: Final = struct.Struct("=QQ")


class StoredRows(Sequence[Row]):
    """Examples as the file's reader gave them. Each access makes a new one.

    `starts` has one element more than there are rows, where the last one ends. `order` are the rows of a part. `files`
    is the name by which a row's JSON refers to bytes behind it.
    """

    def __init__(
        self,
        content: NDArray[np.uint8],
        starts: NDArray[np.int64],
        *,
        files: str,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        self._content = content
        self._files = files
        self._starts = starts
        self._order = order

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._order is None else len(self._order)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> StoredRows: ...
    def __getitem__(self, at: int | slice) -> Row | StoredRows:
        if isinstance(at, slice):
            return self.take(np.arange(len(self))[at])
        row = range(len(self))[at]
        if self._order is not None:
            row = int(self._order[row])
        return self._decoded(self._content[self._starts[row] : self._starts[row + 1]].tobytes())

    def take(self, positions: NDArray[np.int64]) -> StoredRows:
        """The rows at these positions."""
        order = positions if self._order is None else self._order[positions]
        return StoredRows(self._content, self._starts, files=self._files, order=order)

    def _decoded(self, encoded: bytes) -> Row:
        size, behind = _HEAD.unpack_from(encoded)
        text = encoded[_HEAD.size : _HEAD.size + size].decode("utf-8", "surrogatepass")

        def with_bytes(value: Row) -> Any:
            if self._files not in value:
                return value
            start, stop = value[self._files]
            return encoded[_HEAD.size + size + start : _HEAD.size + size + stop]

        row: Row = json.loads(text, object_hook=with_bytes if behind else None)
        return row


class ExampleWriter:
    """Takes rows one by one. What does not fit in memory is in files of `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._files = secrets.token_hex(16)  # no row has a field of this name
        self._content, self._starts = Flat(np.uint8, folder), Flat(np.int64, folder)
        self._end = 0

    def add(self, row: Row) -> None:
        """A row of what JSON has, and bytes. OSError where the disk is full."""
        files: list[bytes] = []
        text = json.dumps(row, ensure_ascii=False, default=partial(self._reference, files))
        body = text.encode("utf-8", "surrogatepass")
        encoded = b"".join([_HEAD.pack(len(body), len(files)), body, *files])
        self._content.add(encoded)
        self._starts.add_number(self._end)
        self._end += len(encoded)

    def finished(self) -> StoredRows:
        self._starts.add_number(self._end)
        return StoredRows(self._content.finished(), self._starts.finished(), files=self._files)

    def _reference(self, files: list[bytes], value: Any) -> Row:
        if not isinstance(value, bytes):
            raise TypeError(f"an example has no {type(value).__name__}")
        start = sum(map(len, files))
        files.append(value)
        return {self._files: [start, start + len(value)]}


class Column(Sequence[Any]):
    """One field of all rows."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        self._rows = rows
        self._name = name

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> Column: ...
    def __getitem__(self, at: int | slice) -> Any:
        return Column(self._rows[at], self._name) if isinstance(at, slice) else self._rows[at][self._name]


def store(numbered: Iterable[tuple[int, Row]], folder: Path | None = None) -> tuple[StoredRows, NDArray[np.int64]]:
    """The rows, and the line of each. What does not fit in memory is in files of `folder`.

    OSError where the disk is full.
    """
    rows, lines = ExampleWriter(folder), Flat(np.int64, folder)
    for line, row in numbered:
        rows.add(row)
        lines.add_number(line)
    return rows.finished(), lines.finished()
