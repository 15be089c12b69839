"""Content-addressed blobs in a local folder or an object store. A blob exists complete, or not at all."""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from app.errors import NotFound, OutOfSpace
from app.storage.folder import FolderStore, sync_folder
from app.storage.object_store import ObjectStore
from app.storage.stored_file import StoredFile

__all__ = ["CHUNK", "Blob", "BlobWriter", "Storage", "StoredFile", "key_of", "sync_folder"]

CHUNK = 1 << 20
#: Errors of a full disk, a full quota, and a file that may not grow.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: A process that stores a blob commits the row that refers to it within this time.
UNSETTLED_SECONDS: Final = 3600.0
#: A backup that has not renewed its protection for this long has died.
PROTECT_SECONDS: Final = 3600.0
QUARANTINE: Final = "quarantine"
#: Marks of blobs whose bytes were stored again while they existed.
_AGAIN: Final = "again"
#: Marks of blobs whose deletion waits.
_UNUSED: Final = "unused"
#: Protections of running backups. The folder has this name for the sake of older versions beside this one.
_PROTECTIONS: Final = "holds"
#: A file in `incoming` is not judged before it has been unchanged for this long.
ABANDONED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: its key in the storage, and its digest and size in bytes."""

    key: str
    sha256: str
    size: int


class BlobWriter:
    """Takes bytes and hashes them as they come. `blob` is set when the block around the writer has ended."""

    blob: Blob

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def sha256(self) -> str:
        return self._digest.hexdigest()


class Storage:
    """Content-addressed blobs under `url`: `file:///folder`, or any URL that fsspec knows (`s3://bucket/prefix`)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = Path(url.removeprefix("file://")) if url.startswith("file://") else None
        self._store = FolderStore(self.root) if self.root is not None else ObjectStore(url)

    @contextmanager
    def writer(self, name: str | None = None) -> Iterator[BlobWriter]:
        """Streams into a private file and publishes it under its digest, or under a `name` as no blob.

        An exception leaves nothing behind. A file with a name is not flushed to the disk: a power cut may shorten it.
        """
        with out_of_space_explained("this file"):
            handle, path = tempfile.mkstemp(dir=self._store.incoming)
            temporary = Path(path)
            try:
                with os.fdopen(handle, "wb") as file:
                    _mark_as_alive(handle)
                    writer = BlobWriter(file)
                    yield writer
                    file.flush()
                    if name is None:
                        os.fsync(file.fileno())
                    writer.blob = Blob(name or key_of(writer.sha256()), writer.sha256(), writer.size)
                    if name is None:
                        self._store.publish(temporary, writer.blob.key, again=_mark_of(writer.blob.key))
                    else:
                        self._store.put(temporary, name)
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, path: Path) -> Blob:
        """Stores a copy of a file."""
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(CHUNK):
                writer.write(chunk)
        return writer.blob

    def open(self, key: str) -> BinaryIO:
        """The blob's bytes. Raises NotFound."""
        with missing_blob_explained(key):
            return self._store.open(key)

    def fetch(self, key: str, to: Path) -> Path:
        """Makes the blob readable at `to`, by a symbolic link to a local file or else a copy. Raises NotFound."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with missing_blob_explained(key):
            self._store.fetch(key, to)
        return to

    def exists(self, key: str) -> bool:
        """Whether the blob is stored."""
        return self._store.exists(key)

    def delete(self, key: str) -> bool:
        """Removes a blob that no row refers to any more. False if that has to wait for a worker's maintenance.

        It waits if the bytes were stored again within the last hour, since the row that names them may not be
        committed yet, whatever project it belongs to; and while a backup is reading.
        """
        since = time.time() - UNSETTLED_SECONDS
        if self._protected() or not self._store.remove_unless_marked(key, again=_mark_of(key), since=since):
            with suppress(OSError):  # a full disk: the doctor finds the blob
                self._store.mark(f"{_UNUSED}/{key}")
            return False
        self._store.remove(f"{_UNUSED}/{key}")
        return True

    def deletions_due(self) -> Iterator[str]:
        """Blobs whose deletion has waited for an hour. Delete them if still no row refers to them, else `keep` them."""
        for file in self._store.list(_UNUSED):
            if file.modified < time.time() - UNSETTLED_SECONDS:
                yield file.key.removeprefix(f"{_UNUSED}/")

    def deletions_waiting(self) -> set[str]:
        """Blobs that no row refers to and that a worker's maintenance will delete."""
        return {file.key.removeprefix(f"{_UNUSED}/") for file in self._store.list(_UNUSED)}

    def keep(self, key: str) -> None:
        """Cancels a deletion that is due."""
        self._store.remove(f"{_UNUSED}/{key}")

    def remove_abandoned(self) -> None:
        """Removes files of writers that were killed: unchanged for a while, and not locked by their writer."""
        for file in self.unfinished():
            if file.modified < time.time() - ABANDONED_SECONDS and self.root is not None:
                with suppress(OSError), (self.root / file.key).open("rb") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (self.root / file.key).unlink()

    # ---- for the doctor and for backups

    def blobs(self) -> Iterator[StoredFile]:
        """Every file among the blobs, blob or not. Its time is when its bytes were last stored."""
        again = {file.key.removeprefix(f"{_AGAIN}/"): file.modified for file in self._store.list(_AGAIN)}
        for file in self._store.list("sha256"):
            yield replace(file, modified=max(file.modified, again.get(file.key, 0.0)))

    def unfinished(self) -> Iterator[StoredFile]:
        """Files of writers that are at work, or were killed."""
        return self._store.list("incoming") if self.root is not None else iter(())

    def quarantined(self) -> Iterator[StoredFile]:
        """Files that `quarantine` has moved, by the time when it did."""
        return self._store.list(QUARANTINE)

    def quarantine(self, key: str) -> None:
        """Moves a file to where no reader finds it, and keeps it."""
        with suppress(FileNotFoundError):
            self._store.move(key, f"{QUARANTINE}/{key}")

    def bring_back(self, key: str) -> None:
        """Moves a file back from quarantine."""
        self._store.move(f"{QUARANTINE}/{key}", key)

    def remove_file(self, key: str) -> None:
        """Removes any file of the storage, by its key."""
        self._store.remove(key)

    # ---- files by a name of their own, which are no blobs: the transparency log's, and parts of uploads

    def write_named(self, key: str, data: bytes) -> None:
        """Stores a file under a name, complete or not at all, in the place of what it had before."""
        with out_of_space_explained(f"the file {key}"):
            self._store.write(key, data)

    def read_named(self, key: str) -> bytes | None:
        """A file's bytes; None where there is no such file."""
        try:
            with self._store.open(key) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove_named(self, prefix: str) -> None:
        """Removes every file below a folder of such files."""
        for file in list(self._store.list(prefix)):
            self._store.remove(file.key)

    @contextmanager
    def protect(self) -> Iterator[Callable[[], None]]:
        """Prevents every deletion until the block ends, for a process that reads from a list that is getting old.

        Call the function that it yields now and then: the protection of a process that stops doing so ends.
        """
        name = f"{_PROTECTIONS}/{uuid.uuid4().hex}"
        renewed = 0.0

        def renew() -> None:
            nonlocal renewed
            if time.monotonic() - renewed > PROTECT_SECONDS / 60 or not renewed:
                self._store.mark(name)
                renewed = time.monotonic()

        try:
            renew()
            yield renew
        finally:
            self._store.remove(name)

    def _protected(self) -> bool:
        return any(file.modified > time.time() - PROTECT_SECONDS for file in self._store.list(_PROTECTIONS))


def _mark_of(key: str) -> str:
    return f"{_AGAIN}/{key}"


def _mark_as_alive(handle: int) -> None:
    """Locks the file, until the kernel releases the lock of a process that has ended."""
    with suppress(OSError):  # a file system without locks keeps such files for the doctor
        fcntl.flock(handle, fcntl.LOCK_EX)


@contextmanager
def out_of_space_explained(what: str) -> Iterator[None]:
    """Raises OutOfSpace in the place of the operating system's errors of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(what) from error
        raise


@contextmanager
def missing_blob_explained(key: str) -> Iterator[None]:
    """Raises NotFound in the place of FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"blob {key} is not in the storage; `permafrost doctor` lists what is missing") from None


def key_of(sha256: str) -> str:
    """The key of the blob with this digest."""
    return f"sha256/{sha256[:2]}/{sha256}"
