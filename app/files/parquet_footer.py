"""The footer of a Parquet file: what its row groups and columns promise, read before any page of them.

pyarrow reads it as well, and ends the process at a column whose entries contradict each other. So it is not asked.
Format: https://parquet.apache.org/docs/file-format/metadata/, in Thrift's compact protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: Of a footer, which takes seconds to read here. Fifty thousand columns of row groups have less.
MAX_BYTES: Final = 8 << 20
_MAGIC: Final = b"PAR1"
_BYTE_ARRAY: Final = 6
_BOOLEANS: Final = (1, 2)
_INTEGERS: Final = (4, 5, 6)
_DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 7, 8, 9, 10, 11, 12
_MAX_DEPTH: Final = 16


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """A column of a row group: its size in the file, unpacked, and in values."""

    path: str
    packed: int
    unpacked: int
    values: int
    texts_in_dictionary: bool


@dataclass(frozen=True, slots=True)
class RowGroup:
    rows: int
    nbytes: int
    columns: tuple[ColumnChunk, ...]


def read_footer(path: Path) -> tuple[RowGroup, ...]:
    """The row groups of a file, as its footer has them. Raises ValueError where it is no footer, or too large."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if size < 12 or end[4:] != _MAGIC or length > size - 12:
            raise ValueError("it does not end with a footer")
        if length > MAX_BYTES:
            raise ValueError(
                f"its footer has {length:,} bytes, at most {MAX_BYTES:,} are read; write larger row groups"
            )
        file.seek(size - 8 - length)
        data = file.read(length)
    try:
        groups = _Thrift(data).struct(0).get(4, [])
        return tuple(_row_group(group) for group in groups)
    except (IndexError, AttributeError, TypeError, KeyError, UnicodeDecodeError):
        raise ValueError("its footer is damaged") from None


def _row_group(group: dict[int, Any]) -> RowGroup:
    columns = tuple(_column(chunk[3]) for chunk in group.get(1, []))
    return RowGroup(int(group[3]), max(0, int(group[2])), columns)


def _column(column: dict[int, Any]) -> ColumnChunk:
    return ColumnChunk(
        path=".".join(part.decode() for part in column[3]),
        packed=max(0, int(column[7])),
        unpacked=max(0, int(column[6])),
        values=max(0, int(column[5])),
        texts_in_dictionary=column[1] == _BYTE_ARRAY and 11 in column,
    )


class _Thrift:
    """Reads Thrift's compact protocol into dictionaries by field number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._readers: dict[int, Callable[[int], Any]] = {
            3: self._byte,
            **dict.fromkeys(_INTEGERS, self._integer),
            _DOUBLE: lambda depth: self._take(8),
            _BINARY: lambda depth: self._take(self._varint()),
            _LIST: self._list,
            _SET: self._list,
            _MAP: self._map,
            _STRUCT: self.struct,
        }

    def struct(self, depth: int) -> dict[int, Any]:
        self._refuse_depth(depth)
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte(depth):
            number = number + (header >> 4) if header >> 4 else self._integer(depth)
            kind = header & 15
            fields[number] = kind == 1 if kind in _BOOLEANS else self._readers[kind](depth + 1)
        return fields

    def _list(self, depth: int) -> list[Any]:
        self._refuse_depth(depth)
        header = self._byte(depth)
        count = header >> 4 if header >> 4 < 15 else self._varint()
        kind = header & 15
        read = self._byte if kind in _BOOLEANS else self._readers[kind]
        return [read(depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> dict[Any, Any]:
        self._refuse_depth(depth)
        count = self._varint()
        if not count:
            return {}
        kinds = self._byte(depth)
        key, value = ((self._byte if kind in _BOOLEANS else self._readers[kind]) for kind in (kinds >> 4, kinds & 15))
        return {key(depth + 1): value(depth + 1) for _ in range(count)}

    def _refuse_depth(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("its footer is nested too deeply")

    def _byte(self, depth: int) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _take(self, length: int) -> bytes:
        taken = self._data[self._at : self._at + length]
        if len(taken) < length:
            raise IndexError
        self._at += length
        return taken

    def _integer(self, depth: int) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise IndexError
