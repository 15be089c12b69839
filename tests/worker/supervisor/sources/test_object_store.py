"""Objects of a store, over S3 with a real server: whole, on after a cut; refusals in words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.files.references import StoreObject
from tests.app.storage.conftest import bucket, s3_server
from worker.supervisor.sources import object_store
from worker.supervisor.sources.arriving import Arriving, Later, SourceRefused

__all__ = ["bucket", "s3_server"]

DATA = bytes(range(256)) * 1_000
KEYS = {"access_key_id": "mine", "secret_access_key": "canary-secret", "region": "us-east-1"}


@pytest.fixture
def keys(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(object_store, "CHUNK", 50_000)
    monkeypatch.setattr(object_store, "PAUSES", (0.0,))
    return KEYS | {"endpoint_url": s3_server}


def put(s3_server: str, bucket: str, key: str, data: bytes) -> StoreObject:
    object_store.store(KEYS | {"endpoint_url": s3_server}).pipe_file(f"{bucket}/{key}", data)
    return StoreObject(bucket, key)


def fetch(wanted: StoreObject, folder: Path, keys: dict[str, str] | None, *, most: int = 10**9) -> bytes:
    with Arriving(folder / "file", most) as arriving:
        object_store.fetch(wanted, arriving, keys=keys, name="ours")
    return (folder / "file").read_bytes()


def test_whole_and_on_after_a_cut(s3_server: str, bucket: str, keys: dict[str, str], tmp_path: Path) -> None:
    """The bytes of this version that are there are not asked for again."""
    wanted = put(s3_server, bucket, "a/train.jsonl", DATA)
    assert fetch(wanted, tmp_path, keys) == DATA
    (tmp_path / "file").write_bytes(b"-" * 100_000)  # what a killed try left
    assert fetch(wanted, tmp_path, keys) == b"-" * 100_000 + DATA[100_000:]
    put(s3_server, bucket, "a/train.jsonl", DATA[::-1])
    assert fetch(wanted, tmp_path, keys) == DATA[::-1]
    assert fetch(put(s3_server, bucket, "empty", b""), tmp_path, keys) == b""


def test_object_that_changes_meanwhile_is_given_up(
    s3_server: str, bucket: str, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of two versions are never joined."""
    wanted = put(s3_server, bucket, "train.jsonl", DATA)
    write = Arriving.write

    def changing(self: Arriving, data: bytes) -> None:
        if self.size == 0:
            put(s3_server, bucket, "train.jsonl", DATA[::-1])
        write(self, data)

    monkeypatch.setattr(Arriving, "write", changing)
    with pytest.raises(Later, match="changed while it was fetched"):
        fetch(wanted, tmp_path, keys)


def test_bucket_that_vanishes_halfway(
    s3_server: str, bucket: str, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and no half file is taken."""
    wanted = put(s3_server, bucket, "train.jsonl", DATA)
    write = Arriving.write

    def vanishing(self: Arriving, data: bytes) -> None:
        if self.size == 0:
            object_store.store(keys).rm(bucket, recursive=True)
        write(self, data)

    monkeypatch.setattr(Arriving, "write", vanishing)
    with pytest.raises(SourceRefused, match=f"s3://{bucket}/train.jsonl does not exist") as refused:
        fetch(wanted, tmp_path, keys)
    assert refused.value.code == "source_not_found"


def test_what_cannot_be_had(s3_server: str, bucket: str, keys: dict[str, str], tmp_path: Path) -> None:
    """Missing, too large, a store that is away: by name."""
    wanted = put(s3_server, bucket, "train.jsonl", DATA)
    with pytest.raises(SourceRefused, match="does not exist"):
        fetch(StoreObject(bucket, "none"), tmp_path, keys)
    with pytest.raises(SourceRefused) as large:
        fetch(wanted, tmp_path, keys, most=1_000)
    assert large.value.code == "file_too_large"
    with pytest.raises(Later, match=f"s3://{bucket} cannot be used"):
        fetch(wanted, tmp_path, keys | {"endpoint_url": "http://127.0.0.1:9"})


@pytest.mark.parametrize(("keys", "code"), [(KEYS, "secret_refused"), (None, "source_refused")])
def test_refused_keys_are_named_without_their_values(keys: dict[str, str] | None, code: str) -> None:
    """Wrong, expired, revoked; or none where some are needed, with the command that helps."""
    with pytest.raises(SourceRefused) as refused, object_store.explained("data/a", keys=keys, name="ours"):
        raise PermissionError("Forbidden")
    assert refused.value.code == code and "canary" not in str(refused.value)
    assert "permafrost secrets set" in str(refused.value)


def test_a_cut_goes_on_within_a_try(
    s3_server: str, bucket: str, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the bytes that have come, once for each pause; then another attempt has to."""
    wanted = put(s3_server, bucket, "train.jsonl", DATA)
    stream, begun = object_store._stream, list[int]()

    def cut(files: Any, wanted: StoreObject, version: str, have: int) -> Iterator[bytes]:
        begun.append(have)
        for data in stream(files, wanted, version, have):
            yield data
            if len(begun) < 2:
                raise ConnectionResetError("cut")

    monkeypatch.setattr(object_store, "_stream", cut)
    assert fetch(wanted, tmp_path, keys) == DATA
    assert begun == [0, 50_000]
    begun.clear()
    monkeypatch.setattr(object_store, "PAUSES", ())
    (tmp_path / "b").mkdir()
    with pytest.raises(Later, match="cut"):
        fetch(wanted, tmp_path / "b", keys)
