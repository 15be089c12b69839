"""Blobs by content: a local folder or an object store. A blob is there whole, or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import NotFound

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    key: str
    sha256: str
    size: int


class Writer:
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
        self._remote: Any = None
        if self.root is not None:
            (self.root / "incoming").mkdir(parents=True, exist_ok=True)
        else:
            import fsspec  # only object stores need it

            self._remote, self._prefix = fsspec.core.url_to_fs(url)

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Streams into a private file and publishes it under its digest; an exception leaves nothing behind."""
        incoming = None if self.root is None else self.root / "incoming"
        with tempfile.NamedTemporaryFile(dir=incoming, delete=False) as file:
            temporary = Path(file.name)
            try:
                writer = Writer(file)  # type: ignore[arg-type]
                yield writer
                file.flush()
                os.fsync(file.fileno())
                writer.blob = Blob(key_of(writer.sha256()), writer.sha256(), writer.size)
                self._publish(temporary, writer.blob.key)
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, path: Path) -> Blob:
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(CHUNK):
                writer.write(chunk)
        return writer.blob

    def open(self, key: str) -> BinaryIO:
        try:
            if self.root is not None:
                return (self.root / key).open("rb")
            return self._remote.open(f"{self._prefix}/{key}", "rb")  # type: ignore[no-any-return]
        except FileNotFoundError:
            raise NotFound(f"blob {key} is not in the storage; `permafrost doctor` lists what is missing") from None

    def fetch(self, key: str, to: Path) -> Path:
        """Makes the blob readable at `to`: a symbolic link where blobs are local files, else a copy."""
        to.parent.mkdir(parents=True, exist_ok=True)
        if self.root is not None:
            if not (self.root / key).is_file():
                raise NotFound(f"blob {key} is not in the storage; `permafrost doctor` lists what is missing")
            to.symlink_to(self.root / key)
            return to
        with self.open(key) as source, to.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
        return to

    def exists(self, key: str) -> bool:
        if self.root is not None:
            return (self.root / key).is_file()
        return bool(self._remote.exists(f"{self._prefix}/{key}"))

    def delete(self, key: str) -> None:
        if self.root is not None:
            (self.root / key).unlink(missing_ok=True)
        elif self.exists(key):
            self._remote.rm(f"{self._prefix}/{key}")

    def _publish(self, temporary: Path, key: str) -> None:
        if self.root is None:
            self._remote.makedirs(f"{self._prefix}/{key}".rsplit("/", 1)[0], exist_ok=True)
            self._remote.put_file(str(temporary), f"{self._prefix}/{key}")
            return
        target = self.root / key
        if target.is_file():
            return  # the same bytes are there already
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o444)
        temporary.replace(target)
        sync_folder(target.parent)


def key_of(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"


def sync_folder(folder: Path) -> None:
    """A rename lasts through a power cut only once its folder has been written too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
