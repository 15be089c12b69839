"""Blobs are there whole under their digest, or not at all: in a folder and in an object store."""

import hashlib
import stat
from pathlib import Path

import pytest

from app.errors import NotFound
from app.storage import Storage, key_of


@pytest.fixture(params=["folder", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """fsspec's in-memory file system stands for an object store: the same calls as S3's."""
    return Storage(f"file://{tmp_path}/blobs" if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_blob_comes_back_byte_for_byte(storage: Storage, tmp_path: Path):
    """put, open, fetch: the key is the digest, and the bytes are the same by each way."""
    data = bytes(range(256)) * 9000
    (tmp_path / "source").write_bytes(data)
    blob = storage.put(tmp_path / "source")
    assert blob.sha256 == hashlib.sha256(data).hexdigest() and blob.size == len(data)
    assert blob.key == key_of(blob.sha256) and storage.exists(blob.key)
    with storage.open(blob.key) as file:
        assert file.read() == data
    assert storage.fetch(blob.key, tmp_path / "work" / "model.bin").read_bytes() == data


def test_the_same_bytes_are_stored_once(storage: Storage, tmp_path: Path):
    """Two puts of equal files give one key."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"equal")
    assert storage.put(tmp_path / "a") == storage.put(tmp_path / "b")


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    """An exception while streaming publishes no blob and no temporary file."""
    storage = Storage(f"file://{tmp_path}/blobs")
    with pytest.raises(ConnectionError), storage.writer() as writer:
        writer.write(b"half of it")
        raise ConnectionError
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_published_blobs_are_read_only(tmp_path: Path):
    """What others refer to by digest is not to be written to."""
    storage = Storage(f"file://{tmp_path}/blobs")
    with storage.writer() as writer:
        writer.write(b"x")
    mode = (tmp_path / "blobs" / writer.blob.key).stat().st_mode
    assert not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_a_missing_blob_is_not_found(storage: Storage, tmp_path: Path):
    """The error names the key and who can tell more; delete of a missing blob is nothing."""
    key = key_of("0" * 64)
    storage.delete(key)
    with pytest.raises(NotFound, match="permafrost doctor"):
        storage.open(key)
    with pytest.raises(NotFound, match=key):
        storage.fetch(key, tmp_path / "x")
    assert not storage.exists(key)


def test_delete(storage: Storage):
    """A deleted blob is gone."""
    with storage.writer() as writer:
        writer.write(b"x")
    storage.delete(writer.blob.key)
    assert not storage.exists(writer.blob.key)
