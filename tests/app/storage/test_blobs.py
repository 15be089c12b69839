"""Blobs are there whole under their digest, or not at all: in a folder, in an object store, and in a real S3."""

import hashlib
import os
import tempfile
import time
from pathlib import Path

import pytest

from app.errors import NotFound
from app.storage.blobs import ABANDONED_SECONDS, Storage, key_of
from app.storage.object_store import BLOCK
from tests.app.storage.conftest import stored


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
    assert [(entry.key, entry.size) for entry in storage.blobs()] == [(blob.key, len(data))]


def test_the_same_bytes_are_stored_once(storage: Storage, tmp_path: Path):
    """Two puts of equal files give one key."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"equal")
    assert storage.put(tmp_path / "a") == storage.put(tmp_path / "b")
    assert len(list(storage.blobs())) == 1


def test_a_failed_write_leaves_nothing(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An exception while streaming publishes no blob and no temporary file."""
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    with pytest.raises(ConnectionError), storage.writer() as writer:
        writer.write(b"half of it")
        raise ConnectionError
    assert list(storage.blobs()) == list(storage.unfinished()) == []
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_missing_blob_is_not_found(storage: Storage, tmp_path: Path):
    """The error names the key and who can tell more; delete of a missing blob is nothing."""
    key = key_of("0" * 64)
    assert storage.delete(key)
    with pytest.raises(NotFound, match="permafrost doctor"):
        storage.open(key)
    with pytest.raises(NotFound, match=key):
        storage.fetch(key, tmp_path / "x")
    assert not storage.exists(key) and not (tmp_path / "x").exists()


def test_delete(storage: Storage):
    """A deleted blob is gone, also for a client that has listed it before."""
    key = stored(storage, b"x")
    assert list(storage.blobs())
    assert storage.delete(key)
    assert not storage.exists(key) and list(storage.blobs()) == []


@pytest.mark.parametrize("stores", [2, 3])
def test_bytes_that_were_stored_again_are_not_deleted(storage: Storage, stores: int):
    """Of several processes that store the same bytes one commits its row and deletes it before the others commit."""
    for _ in range(stores):
        key = stored(storage, b"x")
    assert not storage.delete(key)
    with storage.open(key) as file:
        assert file.read() == b"x"
    assert list(storage.quarantined()) == []


def test_storing_again_changes_nothing_that_a_reader_can_see(storage: Storage):
    """Who reads a blob takes a change of size or time for a change of its bytes, so an equal upload makes neither."""
    data = os.urandom(3 * BLOCK)
    key = stored(storage, data)
    [before] = storage._store.list("sha256")
    with storage.open(key) as reader:
        first = reader.read(1000)
        time.sleep(1.1)  # the resolution of an object store's clock
        stored(storage, data)
        assert first + reader.read() == data
    [after] = storage._store.list("sha256")
    assert before == after


def test_the_time_of_a_blob_is_when_it_was_last_stored(storage: Storage):
    """The doctor leaves recent blobs alone: their rows may still be written."""
    stored(storage, b"x")
    [before] = storage.blobs()
    time.sleep(1.1)
    stored(storage, b"x")
    [after] = storage.blobs()
    assert after.modified > before.modified and (after.key, after.size) == (before.key, before.size)


def test_nothing_goes_while_it_is_held(storage: Storage):
    """A backup copies by a list: what it names is there until it has ended."""
    key = stored(storage, b"x")
    with storage.protect() as renew:
        renew()
        assert not storage.delete(key) and storage.exists(key)
    assert storage.delete(key) and not storage.exists(key)


def test_quarantine_keeps_and_gives_back(storage: Storage):
    """Out of sight of everybody who asks for the blob, and back again with the same bytes."""
    key = stored(storage, b"x")
    storage.quarantine(key)
    assert not storage.exists(key)
    assert [entry.key for entry in storage.quarantined()] == [f"quarantine/{key}"]
    storage.bring_back(key)
    with storage.open(key) as file:
        assert file.read() == b"x"
    assert list(storage.quarantined()) == []


def test_abandoned_file_is_removed(tmp_path: Path) -> None:
    """What a killed writer has left goes, once it has lain still for a while; that of a writer at work stays."""
    storage = Storage(f"file://{tmp_path}")
    left = tmp_path / "incoming" / "left"
    left.write_bytes(b"half of")
    long_ago = time.time() - 2 * ABANDONED_SECONDS
    with storage.writer() as writer:
        writer.write(b"more to come")
        for path in (tmp_path / "incoming").iterdir():
            os.utime(path, (long_ago, long_ago))
        storage.remove_abandoned()
        assert not left.exists()
    assert storage.exists(writer.blob.key)
    left.write_bytes(b"perhaps of a writer that has yet to lock it")
    storage.remove_abandoned()
    assert left.exists()
