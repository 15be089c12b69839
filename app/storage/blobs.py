"""Blobs by content: a local folder or an object store. A blob is there whole, or not at all."""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from app.errors import NotFound, OutOfSpace
from app.storage.folder import FolderStore, sync_folder
from app.storage.object_store import ObjectStore
from app.storage.stored_file import StoredFile

__all__ = ["CHUNK", "Blob", "BlobWriter", "Storage", "StoredFile", "key_of", "sync_folder"]

CHUNK = 1 << 20
#: A full disk, a full quota, and a file that may not grow.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Whoever stores a blob writes the row that names it within this time.
UNSETTLED_SECONDS: Final = 3600.0
#: A backup that has not been heard of for so long has died.
PROTECT_SECONDS: Final = 3600.0
QUARANTINE: Final = "quarantine"
#: A file that is being stored is not looked at before it has lain still for so long.
ABANDONED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Blob:
    key: str
    sha256: str
    size: int


class BlobWriter:
    """Takes bytes, hashes them as they come; `blob` is set once the block around it has ended."""

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
    def writer(self) -> Iterator[BlobWriter]:
        """Streams into a private file and publishes it under its digest; an exception leaves nothing behind."""
        with out_of_space_explained("this file"):
            handle, name = tempfile.mkstemp(dir=self._store.incoming)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    _mark_as_alive(handle)
                    writer = BlobWriter(file)
                    yield writer
                    file.flush()
                    os.fsync(file.fileno())
                    writer.blob = Blob(key_of(writer.sha256()), writer.sha256(), writer.size)
                    self._store.publish(temporary, writer.blob.key)
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, path: Path) -> Blob:
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(CHUNK):
                writer.write(chunk)
        return writer.blob

    def open(self, key: str) -> BinaryIO:
        with missing_blob_explained(key):
            return self._store.open(key)

    def fetch(self, key: str, to: Path) -> Path:
        """Makes the blob readable at `to`: a symbolic link where blobs are local files, else a copy."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with missing_blob_explained(key):
            self._store.fetch(key, to)
        return to

    def exists(self, key: str) -> bool:
        return self._store.exists(key)

    def delete(self, key: str, *, named_since: datetime | None = None) -> bool:
        """Removes a blob that no row names any more; False where it stays for `permafrost doctor`.

        `named_since` is when the last row that named it was made. Bytes that were stored again since then may be those
        of a row that is just being written. And while a backup reads, nothing goes.
        """
        if self._protected():
            return False
        if named_since is None:
            self._store.remove(key)
            return True
        settled = max(named_since.timestamp(), time.time() - UNSETTLED_SECONDS)
        return self._store.remove_untouched(key, settled)

    def remove_abandoned(self) -> None:
        """Files of writers that were killed: nobody has written to them for a while, and nobody holds their lock."""
        for entry in self.unfinished():
            if entry.modified < time.time() - ABANDONED_SECONDS and self.root is not None:
                with suppress(OSError), (self.root / entry.key).open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (self.root / entry.key).unlink()

    # ---- what only the doctor and backups need

    def blobs(self) -> Iterator[StoredFile]:
        """Whatever lies where blobs lie, be it one or not."""
        return self._store.list("sha256")

    def unfinished(self) -> Iterator[StoredFile]:
        """Files of writers that are at work, or were killed."""
        return self._store.list("incoming") if self.root is not None else iter(())

    def quarantined(self) -> Iterator[StoredFile]:
        return self._store.list(QUARANTINE)

    def quarantine(self, key: str) -> None:
        """Takes a file out of sight, and keeps it."""
        with suppress(FileNotFoundError):
            self._store.move(key, f"{QUARANTINE}/{key}")

    def bring_back(self, key: str) -> None:
        self._store.move(f"{QUARANTINE}/{key}", key)

    def remove_file(self, key: str) -> None:
        """Any file of the storage, by its whole name."""
        self._store.remove(key)

    @contextmanager
    def protect(self) -> Iterator[Callable[[], None]]:
        """Until the block ends, nothing is deleted by anybody: for who reads by a list that is getting old.

        Call what it gives now and then: a hold that is not renewed is taken for a dead one's.
        """
        name = f"holds/{uuid.uuid4().hex}"
        again = Path(self._store.incoming or tempfile.gettempdir()) / uuid.uuid4().hex
        renewed = 0.0

        def renew() -> None:
            nonlocal renewed
            if time.monotonic() - renewed > PROTECT_SECONDS / 60 or not renewed:
                again.touch()
                self._store.publish(again, name)
                renewed = time.monotonic()

        try:
            renew()
            yield renew
        finally:
            again.unlink(missing_ok=True)
            self._store.remove(name)

    def _protected(self) -> bool:
        return any(entry.modified > time.time() - PROTECT_SECONDS for entry in self._store.list("holds"))


def _mark_as_alive(handle: int) -> None:
    """The kernel gives the lock back when its holder is dead."""
    with suppress(OSError):  # a file system without locks keeps such files for the doctor
        fcntl.flock(handle, fcntl.LOCK_EX)


@contextmanager
def out_of_space_explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(what) from error
        raise


@contextmanager
def missing_blob_explained(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"blob {key} is not in the storage; `permafrost doctor` lists what is missing") from None


def key_of(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"
