"""Headers that ask: media types with weights, versions, wait_seconds. And HEAD, which is GET without its body."""

import json

import pytest
from starlette.testclient import TestClient

from app.http.headers import etag_matches, wait_seconds, wants_problem
from tests.app.conftest import Upload, rows

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
    found = client.post("fine_tuning/jobs", content=json.dumps(body), headers=sent)
    assert (found.status_code, found.json()["error"]["code"]) == (400, "model_not_found")
