"""Object stores: ranges are cheap, and refusals are explained."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from fsspec import AbstractFileSystem
from s3fs import S3FileSystem

from app.errors import NotFound, StorageUnavailable
from app.evidence.format.digest import sha256_bytes
from app.storage.blobs import Storage, key_of
from app.storage.object_store import BLOCK, ObjectStore
from tests import servers
from tests.app.storage.conftest import credentials, stored
from tests.patience import PATIENCE


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


def test_two_first_uploads_of_the_same_bytes(bucket: str, monkeypatch: pytest.MonkeyPatch):
    """Both find nothing, both store: the bytes are right, and none of them can delete what the other refers to."""
    url = f"s3://{bucket}"
    data, both = os.urandom(1 << 20), threading.Barrier(2)
    looked, has = threading.local(), ObjectStore._has

    def has_then_waits(self: ObjectStore, key: str, temporary: Path) -> bool:
        found = has(self, key, temporary)
        if not getattr(looked, "once", False):
            looked.once = True
            both.wait(timeout=PATIENCE)
        return found

    monkeypatch.setattr(ObjectStore, "_has", has_then_waits)
    with ThreadPoolExecutor(2) as pool:
        keys = list(pool.map(lambda _: stored(Storage(url), data), range(2)))
    assert keys == [key_of(sha256_bytes(data))] * 2
    storage = Storage(url)
    assert not storage.delete(keys[0])
    with storage.open(keys[0]) as file:
        assert file.read() == data


def test_a_store_that_cannot_create_exclusively_still_stores(bucket: str, monkeypatch: pytest.MonkeyPatch):
    put = S3FileSystem._put_file

    async def refusing(self: S3FileSystem, *args: object, mode: str = "overwrite", **kwargs: object) -> None:
        if mode == "create":
            raise OSError("A header you provided implies functionality that is not implemented")
        await put(self, *args, mode=mode, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_put_file", refusing)
    storage = Storage(f"s3://{bucket}")
    with storage.open(stored(storage, b"x")) as file:
        assert file.read() == b"x"


def test_a_whole_object_is_one_request(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither one for each block, nor parts at once that are held in memory; and what is not there leaves no file."""
    storage = Storage(f"s3://{bucket}")
    data = os.urandom(3 * BLOCK)
    key = stored(storage, data)
    monkeypatch.setattr(S3FileSystem, "default_block_size", BLOCK)
    asked: list[str] = []
    real = S3FileSystem._call_s3

    async def counting(self: AbstractFileSystem, method: str, *args: object, **kwargs: object) -> object:
        asked.append(method)
        return await real(self, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counting)
    assert storage.fetch(key, tmp_path / "there").read_bytes() == data
    assert asked.count("get_object") == 1
    with pytest.raises(NotFound):
        storage.fetch(key_of("0" * 64), tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
