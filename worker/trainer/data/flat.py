"""Numbers and bytes that are written once and then read at any place: in memory while they are few, else in a file.

The file is in the folder of the attempt and has no name, so the kernel removes it when the process ends or is killed.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Bytes of one `Flat` that are in memory; a file is written in pieces of this size.
HELD_BYTES: Final = 4 << 20
_INT64: Final = struct.Struct("=q")


class Flat:
    """Elements of one dtype, one after the other. Without a `folder` all of them stay in memory.

    `scattered` ones are read here and there: the kernel then reads no more of the file around them, which may be
    megabytes for some bytes.
    """

    def __init__(self, dtype: DTypeLike, folder: Path | None = None, *, scattered: bool = False) -> None:
        self._dtype = np.dtype(dtype)
        self._scattered = scattered
        self._folder = folder
        self._held = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, content: bytes) -> None:
        """Writes the bytes of further elements. OSError where the disk is full."""
        self._held += content
        if len(self._held) > HELD_BYTES and self._folder is not None:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - `finished` closes it
            self._write(self._file)

    def add_number(self, number: int) -> None:
        """Writes one more element, of int64. OSError where the disk is full."""
        self.add(_INT64.pack(number))

    def finished(self) -> NDArray[Any]:
        """All elements, to be read and not written. A mapped file's pages are clean: the kernel may drop them."""
        if self._file is None:
            elements = np.frombuffer(bytes(self._held), dtype=self._dtype)
        else:
            self._write(self._file)
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file.close()
            if self._scattered:
                mapped.madvise(mmap.MADV_RANDOM)
            elements = np.frombuffer(mapped, dtype=self._dtype)
        self._held = bytearray()
        return elements

    def _write(self, file: IO[bytes]) -> None:
        with memoryview(self._held) as left:
            written = 0
            while written < len(left):
                written += file.write(left[written:])
        self._held.clear()
