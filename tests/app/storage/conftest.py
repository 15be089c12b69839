"""A store of every kind: a folder, object stores in memory and over S3."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from s3fs import S3FileSystem

from app.storage.blobs import Storage
from tests import servers


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a real S3 server."""
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


@pytest.fixture(params=["folder", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(f"s3://{request.getfixturevalue('bucket')}/prefix")
    return Storage(f"file://{tmp_path}/blobs" if request.param == "folder" else f"memory://{tmp_path.name}")


def stored(storage: Storage, data: bytes) -> str:
    with storage.writer() as writer:
        writer.write(data)
    return writer.blob.key
