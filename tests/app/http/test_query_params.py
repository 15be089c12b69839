"""Query parameters: a name that the operation does not have is told, and never left out of account."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.app.guarded import Guarded, guard, routes


@pytest.mark.parametrize(
    ("path", "param", "said"),
    [
        ("fine_tuning/jobs?state=running", "state", "did you mean 'status'?"),
        ("fine_tuning/jobs?created_after[gte]=5", "created_after[gte]", "did you mean 'created_after'?"),
        ("fine_tuning/jobs?meta[team]=a", "meta[team]", "did you mean 'metadata'?"),
        ("fine_tuning/jobs?after[]=x", "after[]", "did you mean 'after'?"),
        ("fine_tuning/jobs?status[x]=running", "status[x]", "did you mean 'status'?"),
        ("files?bogus=1", "bogus", "known here: after, limit, order, purpose"),
        ("webhook_event_types?limit=5", "limit", "this operation has no parameters"),
        ("fine_tuning/jobs?metadata[]=x", "metadata", "a key of 1 to 64 characters"),
        ("fine_tuning/jobs?metadata[a=x", "metadata", "a key of 1 to 64 characters"),
        (f"fine_tuning/jobs?metadata[{'k' * 65}]=x", "metadata", "a key of 1 to 64 characters"),
        ("fine_tuning/jobs?limit=1&limit=2", "limit", "given 2 times; give it once"),
        ("fine_tuning/jobs?after=a&after=a&after=b", "after", "given 3 times"),
        ("fine_tuning/jobs?metadata[team]=a&metadata[team]=b", "metadata[team]", "given 2 times"),
        ("fine_tuning/jobs?metadata=null&metadata=null", "metadata", "given 2 times"),
        ("files?order=asc&order=desc", "order", "given 2 times"),
        ("fine_tuning/jobs?status=done", "status", "'validating_files', 'queued'"),
        ("fine_tuning/jobs?" + "&".join(f"tag={n}" for n in range(70)), "tag", "32 at most"),
        ("fine_tuning/jobs?" + "&".join(f"metadata[{n}]=a" for n in range(70)), "tag", "32 at most"),
    ],
)
def test_a_parameter_that_would_be_ignored_is_refused(client: TestClient, path: str, param: str, said: str) -> None:
    """400 with its name: a filter with a slip of the pen would have listed everything."""
    answer = client.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert said in error["message"]


@pytest.mark.parametrize(
    "query",
    [
        "status[]=running&status[]=queued",
        "status=running&status=queued",
        "metadata[a][b]=c",
        "metadata[team]=",
        "metadata=null",
        "tag[]=a&tag=b",
        "&".join(["tag=a"] * 70),
        "",
    ],
)
def test_what_the_sdk_writes_is_known(client: TestClient, query: str) -> None:
    """Lists with `[]`, entries of metadata; the same filter twice is one."""
    answer = client.get(f"fine_tuning/jobs?{query}")
    assert (answer.status_code, answer.json()["data"]) == (200, [])


def test_the_key_is_judged_first(embedded: FastAPI) -> None:
    """Who is not let in learns nothing of what there is to ask."""
    guarded: Guarded = guard(embedded.state.backends.settings)
    with TestClient(guarded.application, base_url="http://testserver/v1/") as client:
        assert client.get("files?bogus=1").status_code == 401
        assert client.get("files?bogus=1", headers=guarded.headers("mine")).status_code == 400


def test_every_route_refuses_them(client: TestClient, embedded: FastAPI) -> None:
    """Before anything is looked up, on each operation under /v1."""
    tried = 0
    for method, path, _ in routes(embedded):
        if path.startswith("/v1/"):
            answer = client.request(method, f"http://testserver{path}?no_such_parameter=1", json={})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "unknown_parameter"), (method, path, error)
            tried += 1
    assert tried > 35


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/files/", "/v1/files"),
        ("/files", "/v1/files"),
        ("/fine_tuning/jobs/", "/v1/fine_tuning/jobs"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/fine_tuning/jobs/ftjob-1/cancel/", "/v1/fine_tuning/jobs/ftjob-1/cancel"),
    ],
)
def test_a_url_that_was_meant_is_named(client: TestClient, path: str, meant: str) -> None:
    """A slash too many, or a base URL without /v1: the usual slips."""
    answer = client.post(f"http://testserver{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert answer.json()["error"]["message"].endswith(f"did you mean {meant}?")
