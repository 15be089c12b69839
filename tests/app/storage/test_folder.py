"""Blobs as files: read-only, replaced when torn, and never lost between a publisher and a remover."""

import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.storage.blobs import Storage, key_of
from app.storage.folder import FolderStore
from tests.app.storage.conftest import stored


def test_published_blobs_are_read_only(tmp_path: Path):
    """What others refer to by digest is not to be written to."""
    storage = Storage(f"file://{tmp_path}/blobs")
    mode = (tmp_path / "blobs" / stored(storage, b"x")).stat().st_mode
    assert not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def publish(folder: FolderStore, data: bytes) -> str:
    temporary = folder.incoming / f"{threading.get_ident()}"
    temporary.write_bytes(data)
    key = key_of(hashlib.sha256(data).hexdigest())
    folder.publish(temporary, key, again=f"again/{key}")
    temporary.unlink(missing_ok=True)
    return key


def remove(folder: FolderStore, key: str) -> bool:
    return folder.remove_unless_marked(key, again=f"again/{key}", since=time.time() - 60)


@pytest.mark.parametrize("moment", ["rename", "unlink"])
def test_without_locks_the_bytes_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    """At whichever step of a removal the same bytes are stored again, they are there in the end."""
    folder = FolderStore(tmp_path / "blobs")
    key = publish(folder, b"x")
    real = getattr(Path, moment)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def interrupted(self: Path, *arguments: object) -> object:
        monkeypatch.setattr(Path, moment, real)
        publish(folder, b"x")
        return real(self, *arguments)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(Path, moment, interrupted)
    remove(folder, key)
    assert (folder.root / key).read_bytes() == b"x"


def test_a_wanted_blob_is_never_missing(tmp_path: Path):
    """While others store and delete the same bytes, whoever has just stored them can read them until an hour later."""
    folder = FolderStore(tmp_path / "blobs")
    key, over = publish(folder, b"x"), threading.Event()
    publish(folder, b"x")

    def delete() -> None:
        while not over.is_set():
            remove(folder, key)

    with ThreadPoolExecutor() as pool:
        deletions = pool.submit(delete)
        missing = sum(not folder.exists(publish(folder, b"x")) for _ in range(300))
        over.set()
        deletions.result()
    assert missing == 0


def test_a_torn_blob_is_replaced(tmp_path: Path):
    """A file of another size under a blob's name is no blob: the next put makes it whole."""
    storage = Storage(f"file://{tmp_path}/blobs")
    key = stored(storage, b"whole")
    path = tmp_path / "blobs" / key
    path.chmod(0o644)
    path.write_bytes(b"wh")
    assert stored(storage, b"whole") == key and path.read_bytes() == b"whole"


def test_a_mark_counts_for_an_hour(tmp_path: Path):
    """Rows are committed within an hour of their bytes, so an older mark keeps nothing, and goes with the blob."""
    storage = Storage(f"file://{tmp_path}/blobs")
    key = stored(storage, b"x")
    stored(storage, b"x")
    mark = tmp_path / "blobs" / "again" / key
    two_hours_ago = time.time() - 7200
    os.utime(mark, (two_hours_ago, two_hours_ago))
    assert storage.delete(key)
    assert not storage.exists(key) and not mark.exists()


def test_a_full_disk_does_not_prevent_deletions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Freeing space needs none: neither for a lock nor for a mark."""
    storage = Storage(f"file://{tmp_path}/blobs")
    once, twice = stored(storage, b"once"), stored(storage, b"twice")
    stored(storage, b"twice")
    real = Path.open

    def full(self: Path, mode: str = "r", *arguments: object) -> object:
        if "r" not in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *arguments)  # type: ignore[call-overload]

    def no_inode(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(Path, "touch", no_inode)
    assert storage.delete(once) and not storage.exists(once)
    assert not storage.delete(twice) and storage.exists(twice)
