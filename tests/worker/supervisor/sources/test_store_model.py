"""Base models below a prefix of an object store, over S3 with a real server."""

from pathlib import Path

import pytest

from app.errors import ModelError
from tests.app.storage.conftest import bucket, s3_server
from worker.supervisor.sources import store_model
from worker.supervisor.sources.arriving import SourceRefused
from worker.supervisor.sources.object_store import store

__all__ = ["bucket", "s3_server"]

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"import os",
    "old/v1/model.safetensors": b"another model's",
}


@pytest.fixture
def keys(s3_server: str, bucket: str) -> dict[str, str]:
    keys = {"access_key_id": "mine", "secret_access_key": "x", "region": "us-east-1", "endpoint_url": s3_server}
    for name, data in FILES.items():
        store(keys).pipe_file(f"{bucket}/models/tiny/{name}", data)
    return keys


def fetch(prefix: str, folder: Path, keys: dict[str, str], *, most: int = 10_000) -> str:
    return str(store_model.fetch(prefix, folder / "model", most, keys=keys, name="ours")["revision"])


def test_what_is_taken_and_pinned(bucket: str, keys: dict[str, str], tmp_path: Path) -> None:
    """What a hub's repository would give; every byte of it decides the revision."""
    prefix = f"s3://{bucket}/models/tiny/"
    first = fetch(prefix, tmp_path / "a", keys)
    there = {str(path.relative_to(tmp_path / "a" / "model")) for path in (tmp_path / "a" / "model").rglob("*.*")}
    assert there == {"config.json", "model.safetensors", "1_Pooling/config.json"}
    assert fetch(prefix.rstrip("/"), tmp_path / "a", keys) == first == fetch(prefix, tmp_path / "b", keys)
    store(keys).pipe_file(f"{bucket}/models/tiny/config.json", b'{"model_type": "gpt2"}')
    assert fetch(prefix, tmp_path / "a", keys) != first


def test_what_cannot_be_had(bucket: str, keys: dict[str, str], tmp_path: Path) -> None:
    """Nothing there, no weights in safetensors, too large: by name."""
    with pytest.raises(SourceRefused, match="nothing below"):
        fetch(f"s3://{bucket}/models/none", tmp_path, keys)
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        fetch(f"s3://{bucket}/models/tiny/1_Pooling", tmp_path, keys)
    with pytest.raises(SourceRefused, match="PERMAFROST_MAX_HUB_BYTES"):
        fetch(f"s3://{bucket}/models/tiny", tmp_path, keys, most=10)
