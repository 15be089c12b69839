"""SHA-256 of a file and of every tensor in it, from one pass over its bytes.

One thread hashes the file and another its tensors (hashlib releases the interpreter's lock), from shared private
buffers. Both see the same bytes even while another process writes to the file, and memory use is constant.
"""

import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from app.evidence.format.tensorfile import Header, TensorEntry, TensorFileError, header_length, parse_header

CHUNK = 1 << 20
#: Readings of a file that changes each time, before it is reported as changing.
_READINGS = 3
_BUFFER_COUNT = 8  # how many chunks one hash may be ahead of the other


P = ParamSpec("P")
T = TypeVar("T")


class SliceReading(NamedTuple):
    """Rows start to stop (half-open, of dimension 0) of a tensor."""

    start: int
    stop: int
    sha256: str


class TensorReading(NamedTuple):
    """One tensor as a file holds it; `offset` counts from the file's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    sha256: str
    slices: tuple[SliceReading, ...] = ()


class FileReading(NamedTuple):
    """A file and its tensors. `header` is the header's SHA-256; the file's `sha256` is empty if it was not computed."""

    name: str
    size: int
    sha256: str
    tensors: tuple[TensorReading, ...]
    metadata: dict[str, str]
    header: str = ""


def sha256_bytes(buffer: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(buffer).hexdigest()


class FileChanged(TensorFileError):
    """A file changed while it was read, in each of several readings."""


def reread(reading: Callable[P, T]) -> Callable[P, T]:
    """Makes a reading start anew if the file changes meanwhile, before the last of several raises FileChanged."""

    @wraps(reading)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_READINGS - 1):
            with suppress(FileChanged):
                return reading(*args, **kwargs)
        return reading(*args, **kwargs)

    return again


@reread
def sha256_file(path: Path | str, *, follow_symlinks: bool = True) -> str:
    """Hex SHA-256 of a regular file of any kind."""
    digest = hashlib.sha256()
    with _opened(Path(path), follow_symlinks=follow_symlinks) as (file, size):
        for chunk in _chunks(file, size, [bytearray(CHUNK)]):
            digest.update(chunk)
    return digest.hexdigest()


@reread
def read_bytes(path: Path | str) -> bytes:
    """The bytes of a small regular file."""
    with _opened(Path(path), follow_symlinks=True) as (file, size):
        return _exactly(file, size)


@reread
def read_file(
    path: Path | str,
    *,
    rows: Mapping[str, Iterable[tuple[int, int]]] | None = None,
    follow_symlinks: bool = True,
    whole: bool = True,
) -> FileReading:
    """Digest a safetensors file and its tensors, and the row ranges that `rows` lists by tensor name.

    Without `whole` only header and tensors are hashed, one tensor per core: a file's own digest is serial.
    Raises TensorFileError for a file that is not strictly safetensors, is no regular file, or changes while it is read.
    """
    path = Path(path)
    with _opened(path, follow_symlinks=follow_symlinks) as (file, size):
        header, head = read_header(file, size=size)
        regions = [_Region(header.data_start + entry.start, header.data_start + entry.end) for entry in header.entries]
        slices = {entry.name: _slices(entry, (rows or {}).get(entry.name, ()), header) for entry in header.entries}
        everything = regions + [region for parts in slices.values() for _, _, region in parts]
        sha256 = _hash_all(file, size, head, everything) if whole else _hash_regions(file, everything)
        tensors = tuple(
            TensorReading(
                entry.name,
                entry.dtype,
                entry.shape,
                entry.nbytes,
                region.start,
                region.hexdigest(),
                tuple(SliceReading(a, b, part.hexdigest()) for a, b, part in slices[entry.name]),
            )
            for entry, region in zip(header.entries, regions, strict=True)
        )
    return FileReading(path.name, size, sha256, tensors, header.metadata, sha256_bytes(head))


def read_header(file: int, *, size: int) -> tuple[Header, bytes]:
    """The parsed header and its bytes, from an open file descriptor at its start."""
    prefix = _exactly(file, min(8, size))
    length = header_length(prefix, size=size)
    raw = prefix + _exactly(file, length - len(prefix))
    return parse_header(raw, size=size), raw


def row_bytes(shape: tuple[int, ...], nbytes: int) -> int:
    """Bytes of one row of dimension 0. Raises TensorFileError where rows do not fall on whole bytes."""
    if not shape or not shape[0] or nbytes % shape[0]:
        raise TensorFileError(f"a tensor of shape {list(shape)} has no rows of whole bytes")
    return nbytes // shape[0]


class _Region:
    """A range of a file's bytes and its hash."""

    __slots__ = ("_digest", "end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._digest = hashlib.sha256()

    def feed(self, at: int, chunk: memoryview) -> None:
        self._digest.update(chunk[max(self.start - at, 0) : self.end - at])

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _OpenRegions:
    """Feeds chunks in file order to the regions that they touch; regions may overlap (rows are part of tensors)."""

    def __init__(self, regions: Iterable[_Region]) -> None:
        self._waiting = deque(sorted((r for r in regions if r.end > r.start), key=lambda region: region.start))
        self._open: list[_Region] = []

    def feed(self, at: int, chunk: memoryview) -> None:
        end = at + len(chunk)
        while self._waiting and self._waiting[0].start < end:
            self._open.append(self._waiting.popleft())
        for region in self._open:
            region.feed(at, chunk)
        self._open = [region for region in self._open if region.end > end]


def _slices(entry: TensorEntry, rows: Iterable[tuple[int, int]], header: Header) -> list[tuple[int, int, _Region]]:
    ranges, height = list(rows), (entry.shape or (0,))[0]
    for start, stop in ranges:
        if not 0 <= start < stop <= height:
            raise TensorFileError(f"tensor {entry.name!r} of shape {list(entry.shape)} has no rows {start} to {stop}")
    if not ranges:
        return []
    size, origin = row_bytes(entry.shape, entry.nbytes), header.data_start + entry.start
    return [(start, stop, _Region(origin + start * size, origin + stop * size)) for start, stop in ranges]


def _hash_all(file: int, size: int, head: bytes, regions: list[_Region]) -> str:
    """Hash the file behind its header and each region of it in one pass. Returns the file's digest."""
    whole, parts = hashlib.sha256(head), _OpenRegions(regions)
    if size - len(head) <= CHUNK:  # a thread costs more than it saves
        for chunk in _chunks(file, size - len(head), [bytearray(CHUNK)]):
            whole.update(chunk)
            parts.feed(len(head), chunk)
        return whole.hexdigest()
    buffers = _Buffers(file, start=len(head), size=size)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(buffers.pass_to, 0, lambda _, chunk: whole.update(chunk))
        try:
            buffers.pass_to(1, parts.feed)
        finally:
            other.result()
    return whole.hexdigest()


class _Buffers:
    """Chunks of a file in a few private buffers, for two threads that each hash all chunks in order.

    A thread whose next chunk has not been read reads one itself, so the thread that is ahead does the reading and
    neither core waits for the other.
    """

    def __init__(self, file: int, *, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._buffers = [memoryview(bytearray(CHUNK)) for _ in range(_BUFFER_COUNT)]
        self._first = start // CHUNK  # chunks end on multiples of their size, so that reads fall on whole pages
        self._count = -(-size // CHUNK)
        self._next = self._first  # the next chunk to read
        self._there: set[int] = set()
        self._passed = [self._first, self._first]  # chunks that each thread has hashed
        self._failed = False
        self._changed = threading.Condition()

    def pass_to(self, reader: int, take: Callable[[int, memoryview], object]) -> None:
        """Call `take(offset, chunk)` for every chunk in order. Raises TensorFileError when the file ends early."""
        try:
            for index in range(self._first, self._count):
                if not self._ready(index):
                    return  # the other thread failed and raises the error
                begin, end = self._bounds(index)
                take(begin, self._buffers[index % _BUFFER_COUNT][: end - begin])
                with self._changed:
                    self._passed[reader] = index + 1
                    self._there.discard(min(self._passed) - 1)
                    self._changed.notify_all()
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise

    def _ready(self, index: int) -> bool:
        """Wait until the chunk has been read, reading the next ones meanwhile. False if the other thread failed."""
        while True:
            with self._changed:
                if self._failed or index in self._there:
                    return not self._failed
                if self._next == self._count or self._next - min(self._passed) == _BUFFER_COUNT:
                    self._changed.wait()
                    continue
                mine, self._next = self._next, self._next + 1
            self._read(mine)
            with self._changed:
                self._there.add(mine)
                self._changed.notify_all()

    def _read(self, index: int) -> None:
        begin, end = self._bounds(index)
        buffer = self._buffers[index % _BUFFER_COUNT][: end - begin]
        while buffer:
            got = os.preadv(self._file, [buffer], end - len(buffer))
            if not got:
                raise FileChanged("the file became shorter while it was read")
            buffer = buffer[got:]

    def _bounds(self, index: int) -> tuple[int, int]:
        return max(self._start, index * CHUNK), min(self._size, (index + 1) * CHUNK)


def _hash_regions(file: int, regions: list[_Region]) -> str:
    """Hash the regions in parallel, the largest first. Returns an empty digest of the file."""
    waiting = deque(sorted(regions, key=lambda region: region.start - region.end))
    threads = min(len(regions), os.cpu_count() or 1)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for done in [pool.submit(_take_regions, file, waiting) for _ in range(threads)]:
            done.result()
    return ""


def _take_regions(file: int, waiting: deque[_Region]) -> None:
    buffer = memoryview(bytearray(CHUNK))
    while waiting:
        try:
            region = waiting.popleft()
        except IndexError:  # another thread had the last one
            return
        at = region.start
        while at < region.end:
            got = os.preadv(file, [buffer[: region.end - at]], at)
            if not got:
                raise FileChanged("the file became shorter while it was read")
            region.feed(at, buffer[:got])
            at += got


def _chunks(file: int, size: int, buffers: list[bytearray]) -> Iterator[memoryview]:
    """Exactly `size` bytes of the file, in views of the buffers, which are reused in turn."""
    for index in range(-(-size // CHUNK)):
        view = memoryview(buffers[index % len(buffers)])[: min(CHUNK, size - index * CHUNK)]
        filled = 0
        while filled < len(view):
            got = os.readv(file, [view[filled:]])
            if not got:
                raise FileChanged("the file became shorter while it was read")
            filled += got
        yield view


def _exactly(file: int, count: int) -> bytes:
    return b"".join(bytes(chunk) for chunk in _chunks(file, count, [bytearray(min(CHUNK, count))]))


@contextmanager
def _opened(path: Path, *, follow_symlinks: bool) -> Iterator[tuple[int, int]]:
    """An open regular file and its size. Raises FileChanged at the end if size or mtime changed meanwhile."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a named pipe must not wait for a writer
    if not follow_symlinks:
        if path.is_symlink():
            raise TensorFileError(f"{path.name} is a symbolic link")
        flags |= os.O_NOFOLLOW
    file = os.open(path, flags)
    try:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            raise TensorFileError(f"{path.name} is not a regular file")
        yield file, before.st_size
        after = os.fstat(file)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise FileChanged(f"{path.name} changed while it was read")
    finally:
        os.close(file)
