"""Every way to be wrong has an answer: status, code and param in OpenAI's envelope, and nothing reaches training."""

import json
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.http.size_limit import MAX_JSON_BYTES
from app.main import create_app
from app.settings import Settings

JSON = {"content-type": "application/json"}


BAD_BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", JSON, 400, "missing_field"),
    "not JSON": (b"{model: 1}", JSON, 400, "invalid_json"),
    "half a document": (b'{"model": ', JSON, 400, "invalid_json"),
    "not UTF-8": (b'{"model": "\xff"}', JSON, 400, "invalid_body"),
    "nested without end": (b"[" * 100_000, JSON, 400, "invalid_body"),
    "a list": (b"[]", JSON, 400, "invalid_value"),
    "a form": (b"model=x", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "compressed": (b"\x1f\x8b\x08", {**JSON, "content-encoding": "gzip"}, 415, "unsupported_media_type"),
    "no type": (b"{}", {}, 415, "unsupported_media_type"),
    "too large": (b" " * (MAX_JSON_BYTES + 1), JSON, 413, "request_too_large"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_is_no_request_is_refused(client: TestClient, case: str) -> None:
    """Before anything is looked up."""
    content, headers, status, code = BAD_BODIES[case]
    answer = client.post("fine_tuning/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_a_10_mb_body_is_refused_over_a_socket(socket_url: str) -> None:
    """413 reaches the client, with the length declared and without; the connection is of no further use."""
    body = b'{"model":"' + b"x" * 10_000_000 + b'"}'
    for content in (body, (body[at : at + 65536] for at in range(0, len(body), 65536))):
        answer = httpx2.post(f"{socket_url}/v1/fine_tuning/jobs", content=content, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert httpx2.get(f"{socket_url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "nothing/here", 404, "unknown_url"),
        ("GET", "fine_tuning/jobs/", 404, "unknown_url"),
        ("PUT", "fine_tuning/jobs", 405, "method_not_allowed"),
        ("GET", "fine_tuning/jobs/ftjob-none", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/events", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/events?stream=true", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/checkpoints", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/metrics", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/parameters", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/evidence", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/attestation", 404, "not_found"),
        ("POST", "fine_tuning/jobs/ftjob-none/cancel", 404, "not_found"),
        ("GET", "files/file-none", 404, "not_found"),
        ("GET", "files/file-none/content", 404, "not_found"),
        ("DELETE", "files/file-none", 404, "not_found"),
        ("GET", "models/none", 404, "model_not_found"),
        ("GET", "models/none/tensors", 404, "model_not_found"),
        ("GET", "models/none/files/model.safetensors", 404, "model_not_found"),
        ("DELETE", "models/none", 404, "model_not_found"),
        ("GET", "fine_tuning/jobs?limit=0", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?limit=x", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?order=up", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?status=done", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?status[]=done", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?metadata=x", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?after=ftjob-none", 400, "invalid_cursor"),
    ],
)
def test_every_miss_has_the_envelope(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    """Unknown URLs, methods, objects and parameters alike; each answer has a request id."""
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("files", "GET, HEAD, POST"),
        ("files/file-1", "DELETE, GET, HEAD"),
        ("fine_tuning/jobs/ftjob-1/cancel", "POST"),
        ("models/org/name", "DELETE, GET, HEAD"),
        ("models/org/name/tensors", "GET, HEAD"),
    ],
)
def test_the_methods_that_would_work_are_named(client: TestClient, path: str, methods: str) -> None:
    """RFC 9110 wants all of them in Allow on a 405."""
    assert client.put(path).headers["allow"] == methods


def test_problem_json_for_those_who_ask(client: TestClient) -> None:
    """RFC 9457 members beside the envelope; plain JSON for everybody else."""
    answer = client.get("files/file-none", headers={"accept": "application/problem+json"})
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["title"], body["type"]) == (404, "Not Found", "urn:permafrost:error:not_found")
    assert body["detail"] == body["error"]["message"]
    assert body["instance"] == "/v1/files/file-none"
    assert client.get("files/file-none").headers["content-type"] == "application/json"


def test_a_bug_of_ours_is_a_500_that_tells_nothing(embedded: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    """The caller gets the request id, the log gets the traceback."""

    @embedded.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("a secret of the database")

    with TestClient(embedded) as client:
        answer = client.get("/v1/broken")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (500, "internal_error", "server_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in error["message"]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (logged,) = [line for line in lines if line["event"] == "request failed"]
    assert "a secret of the database" in logged["exception"]
    assert logged["request_id"] == answer.headers["x-request-id"]


def test_a_request_id_of_the_callers_own_is_kept(client: TestClient) -> None:
    """One that could break a log line or a header is replaced."""
    assert (
        client.get("models", headers={"x-request-id": "trace-0123456789"}).headers["x-request-id"] == "trace-0123456789"
    )
    assert (
        client.get("models", headers={"x-request-id": "no spaces, please"}).headers["x-request-id"].startswith("req_")
    )


@pytest.mark.parametrize(("auth", "host"), [("off", "0.0.0.0"), ("required", "127.0.0.1"), ("", "192.168.0.5")])
def test_the_service_refuses_to_be_open_to_everybody(tmp_path: Any, auth: Any, host: str) -> None:
    """No keys, no service beyond loopback; the message says what would work."""
    with pytest.raises(SystemExit, match="PERMAFROST_AUTH"):
        create_app(Settings(data_dir=tmp_path, auth=auth, host=host))
