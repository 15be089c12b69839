"""What the answers of tracking servers mean; real servers are in the tests of each kind."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.listening import QuietHandler, listening
from worker.supervisor.exports.tracking import TrackingServer, bearer, client
from worker.supervisor.sources.arriving import Later, SourceRefused


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    seen: list[str | None] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as url:
        yield url, seen


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, b"", SourceRefused, "secret_refused"),
        (403, b"{}", SourceRefused, "secret_refused"),
        (404, b"<html>", SourceRefused, "destination_refused"),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', SourceRefused, "destination_refused"),
        (503, b"", Later, None),
        (429, b"", Later, None),
    ],
)
def test_what_is_final_and_what_is_not(status: int, body: bytes, kind: type[Exception], code: str | None) -> None:
    """A server that refuses will refuse again; one that is busy may not. No message has the secret's value."""
    auth = bearer("authorization", "Bearer canary")
    with answering(status, body) as (url, seen), client(url, auth=auth) as connected, pytest.raises(kind) as raised:
        TrackingServer(connected, "ours").ask("GET", "/experiments")
    assert getattr(raised.value, "code", None) == code and "canary" not in str(raised.value)
    assert seen == ["Bearer canary"]
