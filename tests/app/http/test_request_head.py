"""The server's own settings: request heads are bounded, whatever else is installed."""

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType

import httpx2
import pytest

from app.cli.serve import configured
from app.http.request_head import HeadLimitProtocol
from app.settings import Settings
from tests.app.raw_sockets import answer, connected
from tests.patience import PATIENCE


def head(size: int, *, where: str) -> bytes:
    """A complete head of about this many bytes."""
    filling = b"a" * size
    if where == "path":
        return b"GET /" + filling + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    if where == "query":
        return b"GET /v1/files?after=" + filling + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    headers = b"X: " + filling if where == "header" else b"\r\n".join([b"X: a"] * (size // 6))
    return b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n\r\n"


@pytest.mark.parametrize("where", ["path", "query", "header", "headers"])
@pytest.mark.parametrize("kilobytes", [70, 130, 200, 1_000, 10_000])
def test_a_head_beyond_64_kb_is_refused(socket_url: str, where: str, kilobytes: int) -> None:
    """431 in the envelope reaches the client, whether the server has read all of the head or has stopped before."""
    with connected(socket_url) as connection:
        connection.sendall(head(kilobytes << 10, where=where))
        status, body = answer(connection)
        assert connection.recv(1) == b"", "the connection ends"
    assert (status, json.loads(body)["error"]["code"]) == (431, "request_head_too_large")


@pytest.mark.parametrize("where", ["path", "query", "header", "headers"])
def test_a_head_of_less_is_served(socket_url: str, where: str) -> None:
    """60 KB are no reason to refuse, whatever else is wrong with such a request."""
    with connected(socket_url) as connection:
        connection.sendall(head(60 << 10, where=where))
        assert answer(connection)[0] in (200, 400, 404)


def test_a_head_without_end_is_cut_off(socket_url: str) -> None:
    """A client that goes on sending is closed after so many bytes; the service goes on."""
    sent = 0
    with connected(socket_url) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        while sent < 200 << 20:
            connection.sendall(b"a" * (1 << 20))
            sent += 1 << 20
    assert httpx2.get(f"{socket_url}/healthz", timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 400,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ],
    ids=["TLS", "two lengths"],
)
def test_heads_that_are_no_heads_are_refused(socket_url: str, content: bytes) -> None:
    """400 or a closed connection, and the next client is served."""
    with connected(socket_url) as connection:
        try:
            connection.sendall(content)
            received = connection.recv(64)
        except ConnectionError:
            received = b""
    assert received == b"" or received.split()[1] == b"400", received
    assert httpx2.get(f"{socket_url}/healthz", timeout=PATIENCE).status_code == 200


def test_the_parser_is_the_one_that_bounds_a_head_whatever_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn alone would take httptools and uvloop where they can be imported."""
    for name in ("httptools", "uvloop"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    config = configured(Settings(data_dir=tmp_path))
    config.load()
    assert config.http_protocol_class is HeadLimitProtocol
    assert config.get_loop_factory() is asyncio.SelectorEventLoop
