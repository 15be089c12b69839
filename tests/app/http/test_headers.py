"""Headers that ask: media types with weights, versions, wait_seconds. And HEAD, which is GET without its body."""

import json

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.http.headers import etag_matches, wait_seconds, wants_problem
from tests.app.conftest import Upload, rows
from tests.app.test_hostile_requests import answer, connected

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        (PROBLEM, True),
        (PROBLEM.upper(), True),
        (f"application/json, {PROBLEM}", True),
        (f"{PROBLEM};q=0.9, application/json;q=0.5", True),
        (f"text/html, {PROBLEM} ; q=0.2", True),
        (f"application/json, {PROBLEM};q=0", False),
        (f"{PROBLEM};q=0.1, application/json", False),
        (f"{PROBLEM};q=0.1, */*", False),
        (f"{PROBLEM};q=lots", False),
        ("application/problem+xml", False),
        ("application/*", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_the_heavier_type_is_sent(client: TestClient, accept: str, problem: bool) -> None:
    """RFC 9110: `q=0` is a refusal, and plain JSON wins where it is liked better."""
    assert wants_problem(accept) is problem
    found = client.get("files/file-none", headers={"accept": accept})
    assert found.headers["content-type"] == (PROBLEM if problem else "application/json")
    assert found.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("known", "same"),
    [
        ('W/"4.0"', True),
        ('"4.0"', True),
        ('"x" , W/"4.0"', True),
        ("*", True),
        ('W/"4"', False),
        ('W/"14.0"', False),
        ("", False),
        (None, False),
    ],
)
def test_tags_are_compared_weakly(known: str | None, same: bool) -> None:
    """Any of a list, with or without the weakness mark; `*` is whatever there is."""
    assert etag_matches(known, 'W/"4.0"') is same


@pytest.mark.parametrize(
    ("prefer", "read_timeout", "seconds"),
    [
        ("wait=7", "", 7),
        ("WAIT=7", "", 7),
        ('respond-async, wait = "7"; x', "", 7),
        ("wait=500", "", 60),
        ("wait=20", "12.5", 7),
        ("wait=20", "3", 0),
        ("wait=7", "9" * 5000, 7),
        ("wait=7", "nan", 7),
        ("wait=0.5", "", 0),
        ("wait=-1", "", 0),
        ("await=7", "", 0),
        (None, "", 0),
    ],
)
def test_patience(prefer: str | None, read_timeout: str, seconds: int) -> None:
    """A name in any case, a bound, and never longer than the client reads."""
    assert wait_seconds(prefer, read_timeout=read_timeout, most=60) == seconds


@pytest.mark.parametrize("count", ["9" * 5000, "²", "-1", "1.5", ""])
def test_a_retry_count_that_is_no_count_breaks_nothing(client: TestClient, upload: Upload, count: str) -> None:
    """The header is the client's: whatever stands there, the request is answered."""
    body = {"model": "none", "training_file": upload(rows())}
    sent = [(b"x-stainless-retry-count", count.encode("latin-1")), (b"content-type", b"application/json")]
    found = client.post("fine_tuning/jobs", content=json.dumps(body), headers=sent)  # type: ignore[arg-type]
    assert (found.status_code, found.json()["error"]["code"]) == (400, "model_not_found")


@pytest.mark.parametrize(
    ("path", "status"),
    [("healthz", 200), ("v1/files", 200), ("v1/models", 200), ("docs", 200), ("", 200), ("v1/files/file-none", 404)],
)
def test_head_is_get_without_a_body(socket_url: str, path: str, status: int) -> None:
    """The same status and length, and the connection serves the next request."""
    with httpx2.Client(base_url=socket_url) as client:
        head, get = client.head(f"/{path}"), client.get(f"/{path}")
    assert (head.status_code, head.content) == (get.status_code, b"") == (status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) == len(get.content) > 0


def test_head_of_a_stream_ends(socket_url: str, embedded: FastAPI) -> None:
    """A job that goes on would keep a GET for ever; of a file only the head is read."""
    with httpx2.Client(base_url=f"{socket_url}/v1/", timeout=20) as client:
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
    found = httpx2.head(f"{socket_url}/v1/fine_tuning/jobs/ftjob-1/cancel")
    assert (found.status_code, found.headers["allow"]) == (405, "POST")
