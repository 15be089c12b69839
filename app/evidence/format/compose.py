"""Model files composed of slices of stored blobs: frozen tensors from the base's blob, others from the result's.

The bytes are those that the reference writer of safetensors would write, and are copied only while they are read.
"""

import bisect
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, NamedTuple

from app.evidence.format.tensorfile import TensorEntry, byte_count, header_bytes, in_file_order

CHUNK = 1 << 20


class ComposeError(ValueError):
    """Slices that do not make a file, or a blob that ends before its slices do."""


class Slice(NamedTuple):
    """One tensor of the composed file: `nbytes` bytes of the stored blob `blob`, from its byte `offset` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blob: str
    offset: int
    nbytes: int
    sha256: str


class ComposedFile(NamedTuple):
    """A file that has not been read yet: its header, its size in bytes and its slices in file order."""

    header: bytes
    size: int
    slices: tuple[Slice, ...]

    def stream(self, open_blob: Callable[[str], BinaryIO], start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes start to stop (half-open, as in an HTTP range once its end is made exclusive), at most CHUNK at a time.

        Neighbouring tensors from one blob share one open file; files close when the iterator does.
        """
        stop = self.size if stop is None else min(stop, self.size)
        if start < len(self.header):
            yield self.header[start : max(min(stop, len(self.header)), start)]
        current, source = "", None
        try:
            for piece, at in self._pieces(max(start, len(self.header)), stop):
                if source is None or piece.blob != current:
                    if source is not None:
                        source.close()
                    current, source = piece.blob, open_blob(piece.blob)
                yield from _read(source, piece, max(start - at, 0), min(stop - at, piece.nbytes))
        finally:
            if source is not None:
                source.close()

    def sha256(self, open_blob: Callable[[str], BinaryIO]) -> str:
        """Hex digest of the whole composed file."""
        digest = hashlib.sha256()
        for chunk in self.stream(open_blob):
            digest.update(chunk)
        return digest.hexdigest()

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Slice, int]]:
        """Slices that overlap the range, each with its offset in the file."""
        offsets = self._offsets()
        first = max(bisect.bisect_right(offsets, start) - 1, 0)
        for piece, at in zip(self.slices[first:], offsets[first:], strict=True):
            if at >= stop:
                return
            if at + piece.nbytes > start:
                yield piece, at

    def _offsets(self) -> list[int]:
        offsets, at = [], len(self.header)
        for piece in self.slices:
            offsets.append(at)
            at += piece.nbytes
        return offsets


def compose(slices: Iterable[Slice], metadata: Mapping[str, str] | None = None) -> ComposedFile:
    """The file of these slices in the reference writer's order: by dtype size, then name. Raises ComposeError."""
    by_name: dict[str, Slice] = {}
    for piece in slices:
        if piece.name in by_name:
            raise ComposeError(f"tensor {piece.name!r} is given twice")
        if piece.nbytes != byte_count(piece.dtype, piece.shape):
            raise ComposeError(
                f"tensor {piece.name!r}: {piece.dtype} of shape {list(piece.shape)} does not take {piece.nbytes} bytes"
            )
        by_name[piece.name] = piece
    ordered = [by_name[name] for name, _ in in_file_order((piece.name, piece.dtype) for piece in by_name.values())]
    entries, at = [], 0
    for piece in ordered:
        entries.append(TensorEntry(piece.name, piece.dtype, piece.shape, at, at + piece.nbytes))
        at += piece.nbytes
    header = header_bytes(entries, metadata)
    return ComposedFile(header, len(header) + at, tuple(ordered))


def _read(source: BinaryIO, piece: Slice, start: int, stop: int) -> Iterator[bytes]:
    source.seek(piece.offset + start)
    while start < stop:
        chunk = source.read(min(CHUNK, stop - start))
        if not chunk:
            raise ComposeError(f"blob {piece.blob} ends before tensor {piece.name!r} does")
        start += len(chunk)
        yield chunk
