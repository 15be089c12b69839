"""The server's own settings: request heads are bounded, whatever else is installed."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType

import httpx2
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.cli.serve import configured
from app.settings import Settings
from tests.app.raw_sockets import connected


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
