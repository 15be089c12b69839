"""Blobs as objects of a store that fsspec supports, such as S3, with errors that an operator can act on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, Final, ParamSpec, TypeVar

from app.errors import StorageUnavailable
from app.jsontypes import JsonDict
from app.storage.s3 import session
from app.storage.stored_file import StoredFile

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes that are read ahead: fsspec's default of 50 MB would make every small range expensive.
BLOCK: Final = 4 << 20
#: Schemes of stores whose URLs begin with a bucket.
BUCKETS: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs")


@contextmanager
def explained(store: "ObjectStore") -> Iterator[None]:
    """Turns errors of the store's client into StorageUnavailable with advice, except for a missing object."""
    try:
        yield
    except FileNotFoundError as error:
        if store.reachable():
            raise
        message = f"{store.url} does not exist: the bucket is missing, or its name is misspelt"
        raise StorageUnavailable(message) from error
    except PermissionError as error:
        message = (
            f"{store.url} refuses this service's credentials: {_sentence(error)}; check AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and what they may do there (read, write, list, delete)"
        )
        raise StorageUnavailable(message) from error
    except StorageUnavailable:
        raise
    except Exception as error:  # every object store brings exceptions of its own
        raise StorageUnavailable(f"{store.url} cannot be used: {_sentence(error)}") from error


def _explained(method: Callable[Concatenate["ObjectStore", P], T]) -> Callable[Concatenate["ObjectStore", P], T]:
    def call(self: "ObjectStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with explained(self):
            return method(self, *args, **kwargs)

    return call


class ObjectStore:
    """Objects below `url`. Credentials and endpoint come from the environment, as the store's own client reads them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None
        self.incoming: Path | None = None  # the machine's own folder for temporary files

    @_explained
    def publish(self, temporary: Path, key: str, *, again: str) -> None:
        """Uploads a file. An object of that name and size is left as it is: `again` is marked."""
        files, path = self._at(key)
        if self._has(key, temporary):
            self.mark(again)
            if self._has(key, temporary):  # it was not removed before the mark was there
                return
        self._make_folder(files, path)
        try:
            files.put_file(str(temporary), path, mode="create")
        except FileExistsError:  # stored by another process meanwhile, which may delete it again
            self.mark(again)
            if not self._has(key, temporary):
                files.put_file(str(temporary), path)
        except OSError:  # a store that cannot create without overwriting
            files.put_file(str(temporary), path)

    @_explained
    def mark(self, key: str) -> None:
        """Creates an empty object, or gives it the current time."""
        files, path = self._at(key)
        self._make_folder(files, path)
        files.pipe_file(path, b"")

    @_explained
    def write(self, key: str, data: bytes) -> None:
        """Writes an object of any name, in the place of the one before."""
        files, path = self._at(key)
        self._make_folder(files, path)
        files.pipe_file(path, data)

    @_explained
    def put(self, temporary: Path, key: str) -> None:
        """Uploads a file under any name, in the place of the one before."""
        files, path = self._at(key)
        self._make_folder(files, path)
        files.put_file(str(temporary), path)

    @_explained
    def open(self, key: str) -> BinaryIO:
        files, path = self._at(key)
        opened: BinaryIO = files.open(path, "rb", block_size=BLOCK)
        return opened

    @_explained
    def fetch(self, key: str, to: Path) -> None:
        """Copies the object to `to`, which appears complete or not at all."""
        files, path = self._at(key)
        partial = to.with_name(f".{to.name}.partial")
        try:
            files.get_file(path, str(partial), **self._one_stream)
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)

    @_explained
    def exists(self, key: str) -> bool:
        files, path = self._at(key)
        try:
            files.info(path)
        except FileNotFoundError:
            return False
        return True

    @_explained
    def remove(self, key: str) -> None:
        files, path = self._at(key)
        with suppress(FileNotFoundError):
            files.rm_file(path)

    @_explained
    def remove_unless_marked(self, key: str, *, again: str, since: float) -> bool:
        """Removes a blob and its mark, unless it was marked after `since`. Between look and removal is a round trip."""
        files, path = self._at(key)
        with suppress(FileNotFoundError):
            if _modified(files.info(self._at(again)[1])) > since:
                return False
        with suppress(FileNotFoundError):
            files.rm_file(path)
        self.remove(again)
        return True

    @_explained
    def move(self, key: str, to: str) -> None:
        files, path = self._at(key)
        target = self._at(to)[1]
        self._make_folder(files, target)
        files.cp_file(path, target)
        files.rm_file(path)

    @_explained
    def list(self, prefix: str) -> Iterator[StoredFile]:
        files, path = self._at(prefix)
        root = self._at("")[1]
        try:
            listing = files.find(path, detail=True)
        except FileNotFoundError:
            return iter(())
        return iter(
            [
                StoredFile(name.removeprefix(root), int(info["size"] or 0), _modified(info))
                for name, info in listing.items()
            ]
        )

    def reachable(self) -> bool:
        """Whether the bucket exists, even if it is empty. Stores without buckets are always reachable."""
        if not self._in_bucket:
            return True
        files, root = self._at("")
        try:
            files.ls(root.split("/")[0], detail=False)
        except FileNotFoundError:
            return False
        except Exception:  # noqa: BLE001 - any other error does not mean that the bucket is missing
            return True
        return True

    def _has(self, key: str, temporary: Path) -> bool:
        files, path = self._at(key)
        try:
            return int(files.info(path)["size"] or 0) == temporary.stat().st_size
        except FileNotFoundError:
            return False

    @property
    def _one_stream(self) -> dict[str, int]:
        """Options for one request in the place of one for each block. s3fs' parts at once are 500 MB of memory."""
        return {"max_concurrency": 1} if self._speaks_s3 else {}

    @property
    def _speaks_s3(self) -> bool:
        return self.url.startswith(("s3://", "s3a://"))

    @property
    def _in_bucket(self) -> bool:
        return self.url.partition("://")[0] in BUCKETS

    def _make_folder(self, files: Any, path: str) -> None:
        """Not in stores with buckets: they have no folders, and would create a bucket for a misspelt name."""
        if not self._in_bucket:
            files.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _at(self, key: str) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None:
                self._opened = self._connect()
            files, root = self._opened
        return files, f"{root}/{key}"

    def _connect(self) -> tuple[Any, str]:
        import fsspec  # only needed for object stores

        try:
            # No listings cache, because other processes write to the store too.
            options = {"session": session()} if self._speaks_s3 else {}
            files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **options)
        except ImportError as error:
            scheme = self.url.partition("://")[0]
            extra = "; for S3 it is `pip install permafrost[s3]`" if scheme in ("s3", "s3a") else ""
            raise StorageUnavailable(f"{scheme}:// needs a package that is not installed ({error}){extra}") from None
        except ValueError as error:
            raise StorageUnavailable(f"PERMAFROST_STORAGE_URL={self.url} cannot be used: {error}") from None
        return files, root


def _modified(info: JsonDict) -> float:
    """Modification time in seconds since 1970. S3 calls it LastModified, others mtime or created."""
    for name in ("LastModified", "mtime", "modified", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _sentence(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
