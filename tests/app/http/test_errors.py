"""Every way to be wrong has an answer: status, code and param in OpenAI's envelope, and nothing reaches training."""

import json

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient


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
