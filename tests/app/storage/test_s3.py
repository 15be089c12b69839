"""A store that takes a connection and never answers: what is put there is sent without waiting for its word."""

import socket
import threading
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from app.errors import StorageUnavailable
from app.storage.blobs import Storage
from tests.app.storage.conftest import credentials, stored


@pytest.mark.slow
def test_a_put_does_not_wait_for_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The body comes at once, so that `read_timeout` counts; a store that goes away is an error that says so."""
    heard: list[bytes] = []

    def listen(server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(60)
                data = b""
                while not data.endswith(b"the-bytes"):
                    if not (part := connection.recv(4096)):
                        break
                    data += part
                heard.append(data)
            if data.startswith(b"PUT"):
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        credentials(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(S3FileSystem, "retries", 1)
        monkeypatch.setattr("app.storage.object_store.ObjectStore._has", lambda *_: False)
        S3FileSystem.clear_instance_cache()
        thread = threading.Thread(target=listen, args=(server,), daemon=True)
        thread.start()
        with pytest.raises(StorageUnavailable):
            stored(Storage("s3://bucket"), b"the-bytes")
        thread.join(60)
    S3FileSystem.clear_instance_cache()
    assert [each[:3] for each in heard] == [b"PUT"] and b"expect" not in heard[0].lower()
