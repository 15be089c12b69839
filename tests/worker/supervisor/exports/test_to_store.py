"""Results below a prefix of a store: what has an attestation is whole."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.exports.destinations import parse
from worker.supervisor.exports import to_store
from worker.supervisor.sources.arriving import Later
from worker.supervisor.sources.object_store import ATTEMPTS


def test_the_attestation_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that finds it finds the files that it is about."""
    for name in ("attestation.json", "z.safetensors", "1_Pooling/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    sent: list[str] = []

    class Files:
        def put_file(self, _: str, target: str) -> None:
            sent.append(target)

    def store(keys: Any) -> Files:
        return Files()

    monkeypatch.setattr("worker.supervisor.sources.object_store.store", store)
    to_store.send(parse("s3://bucket/a/b", param="d"), tmp_path, keys=None, name="")
    assert sent == [f"bucket/a/b/{name}" for name in ("1_Pooling/config.json", "z.safetensors", "attestation.json")]


def test_a_store_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few connections, for a later attempt: other exports wait behind this one."""
    (tmp_path / "model.safetensors").write_text("x")
    monkeypatch.setattr("worker.supervisor.sources.object_store.READ_SECONDS", 0.2)
    taken: list[socket.socket] = []

    def take(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                taken.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=take, args=(server,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        keys = {"access_key_id": "mine", "secret_access_key": "canary", "region": "us-east-1", "endpoint_url": url}
        with pytest.raises(Later) as given_up:
            to_store.send(parse("s3://bucket/a", param="d"), tmp_path, keys=keys, name="ours")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for each in taken:
        each.close()
    assert len(taken) <= ATTEMPTS and "canary" not in str(given_up.value)
