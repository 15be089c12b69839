"""HEAD is GET without its body."""

import json

import httpx2
import pytest
from fastapi import FastAPI

from tests.app.conftest import rows
from tests.app.raw_sockets import answer, connected
from tests.patience import PATIENCE


@pytest.mark.parametrize(
    ("path", "status"),
    [("healthz", 200), ("v1/files", 200), ("v1/models", 200), ("docs", 200), ("", 200), ("v1/files/file-none", 404)],
)
def test_head_is_get_without_a_body(socket_url: str, path: str, status: int) -> None:
    """The same status and length, and the connection serves the next request."""
    with httpx2.Client(base_url=socket_url, timeout=PATIENCE) as client:
        head, get = client.head(f"/{path}"), client.get(f"/{path}")
    assert (head.status_code, head.content) == (get.status_code, b"") == (status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) == len(get.content) > 0


def test_head_of_a_stream_ends(socket_url: str, embedded: FastAPI) -> None:
    """A job that goes on would keep a GET for ever; of a file only the head is read."""
    with httpx2.Client(base_url=f"{socket_url}/v1/", timeout=PATIENCE) as client:
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows())
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", content)}}
        file = client.post("files", **form).json()["id"]  # type: ignore[arg-type]
        model = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}
        job = client.post("fine_tuning/jobs", json={"model": model, "training_file": file}).json()["id"]
        stream = client.head(f"fine_tuning/jobs/{job}/events?stream=true")
        assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        whole = client.head(f"files/{file}/content")
        assert whole.headers["content-length"] == str(len(content))


def test_head_where_there_is_no_get(socket_url: str) -> None:
    """405, and the log and the answer speak of HEAD."""
    with connected(socket_url) as connection:
        connection.sendall(b"HEAD /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer(connection) == (404, b"")
    found = httpx2.head(f"{socket_url}/v1/fine_tuning/jobs/ftjob-1/cancel", timeout=PATIENCE)
    assert (found.status_code, found.headers["allow"]) == (405, "POST")
