"""Bodies that are too large, or that stop coming, are refused."""

import json

import httpx2
import pytest

from app.http import size_limit
from tests.app.raw_sockets import FILE, JOB, LENGTH, PART, answer, connected
from tests.patience import PATIENCE


def test_a_10_mb_body_is_refused_over_a_socket(socket_url: str) -> None:
    """413 reaches the client, with the length declared and without; the connection is of no further use."""
    body = b'{"model":"' + b"x" * 10_000_000 + b'"}'
    for content in (body, (body[at : at + 65536] for at in range(0, len(body), 65536))):
        answer = httpx2.post(f"{socket_url}/v1/fine_tuning/jobs", content=content, headers=JSON, timeout=PATIENCE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert httpx2.get(f"{socket_url}/healthz", timeout=PATIENCE).status_code == 200


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("start", [JOB + LENGTH + b"{", FILE + LENGTH + PART], ids=["json", "upload"])
def test_a_body_that_stops_coming_is_given_up(socket_url: str, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 in the envelope instead of a connection that is held for ever; nothing is stored."""
    monkeypatch.setattr(size_limit, "SILENCE_SECONDS", 0.3)
    with connected(socket_url) as connection:
        connection.sendall(start)
        status, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    assert httpx2.get(f"{socket_url}/v1/files", timeout=PATIENCE).json()["data"] == []


def test_a_stream_may_be_silent_for_longer(socket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for bodies that are still to come, not for a client that listens."""
    monkeypatch.setattr(size_limit, "SILENCE_SECONDS", 0.2)
    with connected(socket_url) as connection:
        connection.sendall(b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(connection)[0] == 200
