"""Clients that mean no good, over a real socket: slow ones, endless headers, parts without end. The service goes on."""

import asyncio
import json
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.testclient import TestClient
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.cli.serve import configured
from app.errors import InvalidRequest
from app.files.uploads import MultipartForm
from app.http import size_limit
from app.settings import Settings
from app.storage.blobs import Storage


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as made:
        yield made


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of what comes back before the other side closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if length and len(body) >= int(length[0].split(b":")[1]):
            break
    return int(received.split()[1]), received.partition(b"\r\n\r\n")[2]


JOB = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FILE = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
LENGTH = b"Content-Length: 10000\r\n\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfi'


@pytest.mark.parametrize("start", [JOB + LENGTH + b"{", FILE + LENGTH + PART], ids=["json", "upload"])
def test_a_body_that_stops_coming_is_given_up(socket_url: str, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 in the envelope instead of a connection that is held for ever; nothing is stored."""
    monkeypatch.setattr(size_limit, "SILENCE_SECONDS", 0.3)
    with connected(socket_url) as connection:
        connection.sendall(start)
        status, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    assert httpx2.get(f"{socket_url}/v1/files").json()["data"] == []


def test_a_stream_may_be_silent_for_longer(socket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for bodies that are still to come, not for a client that listens."""
    monkeypatch.setattr(size_limit, "SILENCE_SECONDS", 0.2)
    with connected(socket_url) as connection:
        connection.sendall(b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 50_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 400,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ],
    ids=["long header", "long path", "many headers", "TLS", "two lengths"],
)
def test_heads_that_are_no_heads_are_refused(socket_url: str, head: bytes) -> None:
    """4xx or a closed connection, and the next client is served."""
    with connected(socket_url) as connection:
        try:
            connection.sendall(head)
            received = connection.recv(64)
        except ConnectionError:
            received = b""
    assert received == b"" or received.split()[1].startswith(b"4"), received
    assert httpx2.get(f"{socket_url}/healthz").status_code == 200


def test_the_headers_of_a_part_are_bounded(tmp_path) -> None:
    """A form may be gigabytes long, since its file may; what is kept of its headers may not."""
    storage = Storage(f"file://{tmp_path}/blobs")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="Maximum header size"), storage.writer() as writer:
            form = MultipartForm(b"b", writer, limit=1 << 40)
            form.feed(b"--b\r\nContent-Disposition: ")
            for _ in range(100):
                form.feed(b"a" * 100_000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert list(storage.blobs()) == list(storage.unfinished()) == []


def test_a_part_without_end_of_fields_is_bounded(tmp_path) -> None:
    """Many fields, or a long one: refused before they add up."""
    storage = Storage(f"file://{tmp_path}/blobs")
    with pytest.raises(InvalidRequest, match="too many fields"), storage.writer() as writer:
        form = MultipartForm(b"b", writer, limit=1 << 40)
        for number in range(1000):
            form.feed(b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number)
    with pytest.raises(InvalidRequest, match="is longer than"), storage.writer() as writer:
        form = MultipartForm(b"b", writer, limit=1 << 40)
        form.feed(b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n')
        for _ in range(100):
            form.feed(b"x" * 10_000)


def test_the_parser_is_the_one_that_bounds_a_head_whatever_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn alone would take httptools and uvloop where they can be imported."""
    for name in ("httptools", "uvloop"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    config = configured(Settings(data_dir=tmp_path))
    config.load()
    assert config.http_protocol_class is H11Protocol
    assert config.get_loop_factory() is asyncio.SelectorEventLoop


def test_made_up_methods_share_a_counter(client: TestClient) -> None:
    """Any word can stand for a method: fifty of them add no more than one to what is counted."""
    for number in range(50):
        assert client.request(f"WORD{number}", "files").status_code == 405
    counted = client.get("http://testserver/metrics").text
    assert 'method="other"' in counted
    assert "WORD" not in counted
