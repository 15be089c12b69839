"""Rows of a prefix's results in a folder that several jobs share, each found by a digest of what it was computed from.

A job appends to two files of its own: results to `*.rows`, then a record of each row to `*.index`. So jobs never write
to one file, and a crash leaves a record without its row at worst, which the row's checksum shows. The checksum also
holds the folder's key and the row's address, so that a row of another prefix or another example is never taken for
this one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("address", "u1", 32), ("begin", "<i8"), ("size", "<i8"), ("checksum", "u1", 32)])
MOST_INDEX_BYTES = 1 << 28  # of one folder: what is beyond is not read
SPARE_BYTES = 1 << 30  # of the disk that is left to checkpoints

Records = NDArray[np.void]


class RowStore:
    """The rows of one prefix, named by `key`. Nothing here fails: `on_problem` gets a sentence, each kind once.

    `room` is how many bytes this job may add.
    """

    def __init__(self, folder: Path, *, key: str, room: int, on_problem: Callable[[str], None]) -> None:
        self._folder = folder / key
        self._key = key.encode()
        self._room = room
        self._on_problem = on_problem
        self._files: list[int] = []  # open `*.rows`
        self._records, self._file_of = self._load()
        self._starts = _starts(self._records)
        self._own: tuple[int, int] | None = None  # this job's `*.rows` and `*.index`
        self._end = 0
        self._writes = True
        self.damaged = 0

    def __len__(self) -> int:
        return len(self._records)

    def get(self, address: bytes, size: int) -> bytes | None:
        """The row's bytes, or None where it is not here or not intact."""
        damaged = False
        for index in self._candidates(address):
            record = self._records[index]
            payload = self._read(int(self._file_of[index]), int(record["begin"]), size)
            if int(record["size"]) == size and self._checksum(address, payload) == record["checksum"].tobytes():
                return payload
            damaged = True
        self.damaged += damaged
        return None

    def put(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Append rows, each an address and its bytes, as far as there is room."""
        nbytes = sum(len(payload) for _, payload in rows) + len(rows) * RECORD.itemsize
        if not self._writes or not rows:
            return
        if nbytes > self._room:
            self._stop_writing("the folder's limit is reached")
            return

        records = np.zeros(len(rows), dtype=RECORD)
        begin = self._end
        for record, (address, payload) in zip(records, rows, strict=True):
            record["address"] = np.frombuffer(address, np.uint8)
            record["begin"], record["size"] = begin, len(payload)
            record["checksum"] = np.frombuffer(self._checksum(address, payload), np.uint8)
            begin += len(payload)
        try:
            rows_file, index_file = self._own or self._create()
            _write(rows_file, b"".join(payload for _, payload in rows))
            _write(index_file, records.tobytes())
        except OSError as error:
            self._stop_writing(error.strerror or str(error))
            return
        self._end, self._room = begin, self._room - nbytes

    def close(self) -> None:
        """Close its files, and say whether rows were damaged."""
        if self.damaged:
            self._on_problem(f"{self.damaged:,} kept results were damaged or cut short, and were computed again")
        for descriptor in (*self._files, *(self._own or ())):
            os.close(descriptor)
        self._files, self._own, self._writes = [], None, False
        self._records, self._file_of = np.zeros(0, dtype=RECORD), np.zeros(0, dtype=np.int64)

    def _load(self) -> tuple[Records, NDArray[np.int64]]:
        """All records of the folder, sorted by address, and the number of the file that each one's row is in."""
        parts, owners, left = [], [], MOST_INDEX_BYTES
        try:
            names = sorted(path.stem for path in self._folder.iterdir() if path.suffix == ".index")
        except FileNotFoundError:
            names = []
        except OSError as error:
            names = []
            self._on_problem(f"results of earlier jobs cannot be read: {error.strerror}")
        with suppress(OSError):
            os.utime(self._folder)  # the least recently used folders are removed first

        for name in names:
            records = self._index(name, left)
            if records is not None and len(records):
                parts.append(records)
                owners.append(np.full(len(records), len(self._files) - 1))
                left -= records.nbytes
        if not parts:
            return np.zeros(0, dtype=RECORD), np.zeros(0, dtype=np.int64)
        together, owner = np.concatenate(parts), np.concatenate(owners)
        order = np.argsort(_starts(together), kind="stable")
        return together[order], owner[order]

    def _index(self, name: str, most: int) -> Records | None:
        """The whole records of one index, whose file of rows is then the last of `_files`."""
        try:
            descriptor = _open(self._folder / f"{name}.index")
            try:
                size = min(os.fstat(descriptor).st_size, most) // RECORD.itemsize * RECORD.itemsize
                records = np.frombuffer(_read(descriptor, 0, size), dtype=RECORD)
            finally:
                os.close(descriptor)
            self._files.append(_open(self._folder / f"{name}.rows"))
        except (OSError, ValueError) as error:
            self._on_problem(f"a file of kept results cannot be read: {error}")
            return None
        return records

    def _candidates(self, address: bytes) -> Iterator[int]:
        start = int.from_bytes(address[:8], "little")
        first = int(np.searchsorted(self._starts, np.uint64(start)))
        for index in range(first, len(self._records)):
            if int(self._starts[index]) != start:
                return
            if self._records[index]["address"].tobytes() == address:
                yield index

    def _read(self, file: int, begin: int, size: int) -> bytes:
        try:
            return _read(self._files[file], max(0, begin), size)
        except OSError:
            return b""

    def _checksum(self, address: bytes, payload: bytes) -> bytes:
        return hashlib.sha256(b"%b %b %b" % (self._key, address, payload)).digest()

    def _create(self) -> tuple[int, int]:
        disk = os.statvfs(self._folder.parent)
        self._room = min(self._room, disk.f_bavail * disk.f_frsize - SPARE_BYTES)
        if self._room <= 0:
            raise OSError(0, "the disk is nearly full")
        self._folder.mkdir(exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        rows, index = (os.open(self._folder / f"{name}.{kind}", flags, 0o644) for kind in ("rows", "index"))
        self._own = (rows, index)
        return self._own

    def _stop_writing(self, why: str) -> None:
        self._writes = False
        self._on_problem(f"results are not kept for other jobs: {why}")


def _starts(records: Records) -> NDArray[np.uint64]:
    """The first eight bytes of each address as a number."""
    return np.ascontiguousarray(records["address"][:, :8]).view("<u8").reshape(-1).astype(np.uint64)


def _open(path: Path) -> int:
    """A regular file and nothing else: reading a pipe would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is no file")
    return descriptor


def _read(descriptor: int, begin: int, size: int) -> bytes:
    """Up to `size` bytes; fewer where the file ends. Not mapped: a file that is cut short would be a crash."""
    parts = []
    while size and (part := os.pread(descriptor, min(size, 1 << 30), begin)):
        parts.append(part)
        begin, size = begin + len(part), size - len(part)
    return b"".join(parts)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
