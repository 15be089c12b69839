"""Blobs as files: read-only, replaced when torn, and never lost between a publisher and a remover."""

import hashlib
import os
import stat
import time
from datetime import UTC, datetime, timedelta
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


def test_a_publisher_and_a_remover_never_lose_the_bytes(tmp_path: Path):
    """At whichever point the remover stands when the same bytes come again, they are there in the end."""
    folder = FolderStore(tmp_path / "blobs")
    key = key_of(hashlib.sha256(b"x").hexdigest())

    def put() -> None:
        (folder.incoming / "new").write_bytes(b"x")
        folder.publish(folder.incoming / "new", key)

    put()
    real = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        moved = real(self, target)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", real)
            put()
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        assert folder.remove_untouched(key, time.time() + 60)
    assert folder.exists(key)


def test_a_torn_blob_is_replaced(tmp_path: Path):
    """A file of another size under a blob's name is no blob: the next put makes it whole."""
    storage = Storage(f"file://{tmp_path}/blobs")
    key = stored(storage, b"whole")
    path = tmp_path / "blobs" / key
    path.chmod(0o644)
    path.write_bytes(b"wh")
    assert stored(storage, b"whole") == key and path.read_bytes() == b"whole"


def test_old_bytes_are_deleted_whoever_stored_them_last(tmp_path: Path):
    """Rows come within an hour of their bytes, so that what is older waits for none."""
    storage = Storage(f"file://{tmp_path}/blobs")
    key = stored(storage, b"x")
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / "blobs" / key, (two_hours_ago, two_hours_ago))
    assert storage.delete(key, named_since=datetime.now(UTC) - timedelta(days=1))
