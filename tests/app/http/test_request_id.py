"""Every response has a request id."""

import re

import httpx2
from starlette.testclient import TestClient

from tests.patience import PATIENCE


def test_a_request_id_of_the_callers_own_is_kept(client: TestClient) -> None:
    """One that could break a log line or a header is replaced."""
    assert (
        client.get("models", headers={"x-request-id": "trace-0123456789"}).headers["x-request-id"] == "trace-0123456789"
    )
    assert (
        client.get("models", headers={"x-request-id": "no spaces, please"}).headers["x-request-id"].startswith("req_")
    )


def test_the_id_is_on_every_kind_of_response(socket_url: str) -> None:
    """On errors of the framework and on HEAD, too; and no two requests share one."""
    with httpx2.Client(base_url=socket_url, timeout=PATIENCE) as client:
        responses = [client.get("/v1/files"), client.get("/nothing"), client.put("/v1/files"), client.head("/v1/files")]
    ids = [response.headers["x-request-id"] for response in responses]
    assert len(set(ids)) == 4
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", request_id) for request_id in ids)
