"""Blobs are there whole under their digest, or not at all: in a folder, in an object store, and in a real S3."""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from fsspec import AbstractFileSystem
from s3fs import S3FileSystem

from app.errors import NotFound, StorageUnavailable
from app.storage.blobs import ABANDONED_SECONDS, Storage, key_of
from app.storage.folder import FolderStore
from app.storage.object_store import BLOCK
from tests import servers

PLACES = ("folder", "memory", "s3")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with servers.s3_server() as url:
        yield url


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket, and the environment in which every S3 client finds it."""
    credentials(monkeypatch, s3_server)
    name = f"permafrost-{time.monotonic_ns()}"
    assert httpx2.put(f"{s3_server}/{name}").status_code == 200
    yield name
    S3FileSystem.clear_instance_cache()


def credentials(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    S3FileSystem.clear_instance_cache()
    values = {"ACCESS_KEY_ID": "mine", "SECRET_ACCESS_KEY": "canary-secret", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**values, "ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture(params=PLACES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(f"s3://{request.getfixturevalue('bucket')}/prefix")
    return Storage(f"file://{tmp_path}/blobs" if request.param == "folder" else f"memory://{tmp_path.name}")


def stored(storage: Storage, data: bytes) -> str:
    with storage.writer() as writer:
        writer.write(data)
    return writer.blob.key


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


def test_published_blobs_are_read_only(tmp_path: Path):
    """What others refer to by digest is not to be written to."""
    storage = Storage(f"file://{tmp_path}/blobs")
    mode = (tmp_path / "blobs" / stored(storage, b"x")).stat().st_mode
    assert not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_a_missing_blob_is_not_found(storage: Storage, tmp_path: Path):
    """The error names the key and who can tell more; delete of a missing blob is nothing."""
    key = key_of("0" * 64)
    storage.delete(key)
    assert storage.delete(key, named_since=datetime.now(UTC))
    with pytest.raises(NotFound, match="permafrost doctor"):
        storage.open(key)
    with pytest.raises(NotFound, match=key):
        storage.fetch(key, tmp_path / "x")
    assert not storage.exists(key) and not (tmp_path / "x").exists()


def test_delete(storage: Storage):
    """A deleted blob is gone, also for a client that has listed it before."""
    key = stored(storage, b"x")
    assert list(storage.blobs())
    assert storage.delete(key, named_since=datetime.now(UTC) + timedelta(seconds=2))
    assert not storage.exists(key) and list(storage.blobs()) == []


def test_bytes_that_were_stored_again_are_not_deleted(storage: Storage):
    """Somebody puts the same bytes while the last row that named them goes: theirs may be the next row."""
    key = stored(storage, b"x")
    named_since = datetime.now(UTC) - timedelta(seconds=2)
    stored(storage, b"x")
    assert not storage.delete(key, named_since=named_since)
    with storage.open(key) as file:
        assert file.read() == b"x"
    assert list(storage.quarantined()) == []


def test_old_bytes_are_deleted_whoever_stored_them_last(tmp_path: Path):
    """Rows come within an hour of their bytes, so that what is older waits for none."""
    storage = Storage(f"file://{tmp_path}/blobs")
    key = stored(storage, b"x")
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / "blobs" / key, (two_hours_ago, two_hours_ago))
    assert storage.delete(key, named_since=datetime.now(UTC) - timedelta(days=1))


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


def test_a_range_of_an_object_costs_a_range(bucket: str, monkeypatch: pytest.MonkeyPatch):
    """Ten bytes from the middle of a large object ask the store for about a block, and not for all of it."""
    storage = Storage(f"s3://{bucket}")
    key = stored(storage, os.urandom(3 * BLOCK))
    asked: list[int] = []
    real = S3FileSystem._call_s3

    async def counting(self: AbstractFileSystem, method: str, *args: object, **kwargs: object) -> object:
        if "Range" in kwargs:
            first, last = str(kwargs["Range"]).removeprefix("bytes=").split("-")
            asked.append(int(last) - int(first) + 1)
        return await real(self, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counting)
    with storage.open(key) as file:
        file.seek(BLOCK)
        assert len(file.read(10)) == 10
    assert asked and sum(asked) <= BLOCK + 10


def test_an_object_store_that_refuses_is_explained(monkeypatch: pytest.MonkeyPatch):
    """Wrong credentials, a missing bucket, nobody there: what it was and what to check, and no secret."""
    with servers.s3_server(INITIAL_NO_AUTH_ACTION_COUNT="1") as endpoint:
        credentials(monkeypatch, endpoint)
        assert httpx2.put(f"{endpoint}/theirs").status_code == 200
        with pytest.raises(StorageUnavailable, match="refuses this service's credentials") as refused:
            stored(Storage("s3://theirs"), b"x")
    assert refused.value.status == 503 and "AWS_ACCESS_KEY_ID" in refused.value.message
    assert "canary-secret" not in refused.value.message
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers.free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageUnavailable, match="cannot be used"):
        stored(Storage("s3://nobody"), b"x")
    S3FileSystem.clear_instance_cache()


def test_a_missing_bucket_is_no_missing_blob(bucket: str):
    """Not found would send somebody to look for the blob."""
    with pytest.raises(StorageUnavailable, match="does not exist"):
        Storage(f"s3://{bucket}-not").open(key_of("0" * 64))
    with pytest.raises(StorageUnavailable, match="does not exist"):
        stored(Storage(f"s3://{bucket}-not"), b"x")


def test_a_scheme_without_its_package_is_explained():
    """The package that is missing, before anything is written."""
    with pytest.raises(StorageUnavailable, match="not installed"):
        Storage("gcs://bucket").exists("x")


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
