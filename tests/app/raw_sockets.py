"""HTTP by hand, over a socket of our own, for requests that no client library would send."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.patience import PATIENCE


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as made:
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
