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
from tests.app.conftest import AFFINE, Upload, rows

JSON = {"content-type": "application/json"}
TORCH = {"type": "torch", "architecture": "affine"}
SGD = {"name": "sgd", "groups": [{"select": {"name": "weight"}, "options": {"requires_grad": False}}]}


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


#: What a group of an optimizer may not say: optimizer, group -> where, code. Each broke the trainer, three times over.
BAD_GROUPS: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("a word as rate", "sgd", {"options": {"lr": "x"}}, ".options.lr", "invalid_value"),
    ("no rate", "sgd", {"options": {"lr": None}}, ".options.lr", "invalid_value"),
    ("a negative rate", "sgd", {"options": {"lr": -1}}, ".options.lr", "invalid_value"),
    ("an endless rate", "sgd", {"options": {"lr": float("inf")}}, ".options", "invalid_value"),
    ("a huge rate", "sgd", {"options": {"lr": 10**400}}, ".options", "invalid_value"),
    ("nesting", "sgd", {"options": {"lr": nested(300)}}, ".options", "invalid_value"),
    ("a word as momentum", "sgd", {"options": {"momentum": "much"}}, ".options.momentum", "invalid_value"),
    ("no momentum", "sgd", {"options": {"momentum": None}}, ".options.momentum", "invalid_value"),
    ("one beta", "adamw", {"options": {"betas": [0.9]}}, ".options.betas", "invalid_value"),
    ("two epsilons", "adamw", {"options": {"eps": [0.1, 0.1]}}, ".options.eps", "invalid_value"),
    ("an unknown selector", "sgd", {"select": {"nmae": "bias"}, "options": {}}, ".select.nmae", "invalid_request"),
    ("an unknown name", "sgd", {"select": {"name": "bais"}, "options": {}}, ".select.name", "invalid_request"),
    ("a frozen tensor", "sgd", {"select": {"name": "weight"}, "options": {}}, "", "invalid_request"),
]

# What is changed in a good request -> param and code of the refusal.
BAD_JOBS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown field": ({"sed": 1}, "sed", "unknown_field"),
    "unknown hyperparameter": ({"hyperparameters": {"lr": 0.1}}, "hyperparameters.lr", "unknown_field"),
    "text for a number": ({"hyperparameters": {"n_epochs": "3"}}, "hyperparameters.n_epochs", "invalid_value"),
    "no epochs": ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "invalid_value"),
    "true for a number": ({"seed": True}, "seed", "invalid_value"),
    "negative seed": ({"seed": -1}, "seed", "invalid_value"),
    "long suffix": ({"suffix": "x" * 65}, "suffix", "invalid_value"),
    "suffix with a slash": ({"suffix": "a/b"}, "suffix", "invalid_value"),
    "metadata of numbers": ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
    "too much metadata": ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
    "integrations": ({"integrations": [{"type": "wandb"}]}, "integrations", "invalid_value"),
    "reinforcement": ({"method": {"type": "reinforcement"}}, "method.type", "invalid_value"),
    "unknown model": ({"model": "gpt-4o-mini"}, "model", "model_not_found"),
    "number as model": ({"model": 5}, "model", "invalid_value"),
    "unknown kind of model": ({"model": {"type": "onnx"}}, "model", "invalid_value"),
    "spec without architecture": ({"model": {"type": "torch"}}, "model.architecture", "missing_field"),
    "unknown architecture": (
        {"model": {**AFFINE, "architecture": "afine"}},
        "model.architecture",
        "unknown_architecture",
    ),
    "missing kwargs": ({"model": TORCH}, "model.kwargs.in_features", "invalid_model"),
    "kwargs of another type": (
        {"model": {**TORCH, "kwargs": {"in_features": "2"}}},
        "model.kwargs.in_features",
        "invalid_model",
    ),
    "unknown kwargs": (
        {"model": {**TORCH, "kwargs": {"in_features": 2, "out_features": 1, "bias": False}}},
        "model.kwargs.bias",
        "invalid_model",
    ),
    "path out of the folder": (
        {"model": {"type": "transformers", "path": "../../etc"}},
        "model.path",
        "model_not_found",
    ),
    "unknown weights": ({"model": {**AFFINE, "weights": "file-none"}}, "model.weights", "not_found"),
    "unknown file": ({"training_file": "file-none"}, "training_file", "not_found"),
    "unknown validation file": ({"validation_file": "file-none"}, "validation_file", "not_found"),
    "policy of another type": ({"freeze_policy": [1]}, "freeze_policy", "invalid_freeze_policy"),
    "unknown selector": (
        {"freeze_policy": {"rules": [{"action": "freeze", "select": {"nmae": "weight"}}]}},
        "freeze_policy.rules[0].select.nmae",
        "invalid_freeze_policy",
    ),
    "unknown mechanism": (
        {"freeze_policy": {"freeze": ["weight"], "mechanism": "lr0"}},
        "freeze_policy.mechanism",
        "invalid_freeze_policy",
    ),
    "policy that matches nothing": (
        {"freeze_policy": {"freeze": ["wieght"]}},
        "freeze_policy.freeze",
        "invalid_freeze_policy",
    ),
    "policy that freezes everything": ({"freeze_policy": {"freeze": ["**"]}}, "freeze_policy", "invalid_freeze_policy"),
    "optimizer by its name alone": (
        {"hyperparameters": {"optimizer": "sgd"}},
        "hyperparameters.optimizer",
        "invalid_value",
    ),
    "ignored option": (
        {"hyperparameters": {"optimizer": SGD}},
        "hyperparameters.optimizer.groups[0].options.requires_grad",
        "ignored_option",
    ),
    "option of another optimizer": (
        {"hyperparameters": {"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}},
        "hyperparameters.optimizer.betas",
        "unknown_option",
    ),
    "nested without end": (
        {"model": {**TORCH, "kwargs": {"in_features": 2, "out_features": nested(300)}}},
        "model.kwargs",
        "invalid_value",
    ),
    "a number that is none": (
        {"model": {**TORCH, "kwargs": {"in_features": 2, "out_features": float("nan")}}},
        "model.kwargs",
        "invalid_value",
    ),
    "a number of 400 digits": (
        {"model": {**TORCH, "kwargs": {"in_features": 10**400, "out_features": 1}}},
        "model.kwargs",
        "invalid_value",
    ),
    "half a character": (
        {"model": {"type": "torch", "architecture": "mlp", "kwargs": {"\ud800": 1}}},
        "model.kwargs",
        "invalid_value",
    ),
    "no time at all": ({"max_run_seconds": 0}, "max_run_seconds", "invalid_value"),
    "no time among the hyperparameters": (
        {"hyperparameters": {"max_run_seconds": 0}},
        "hyperparameters.max_run_seconds",
        "invalid_value",
    ),
    **{
        f"group with {case}": (
            {"hyperparameters": {"optimizer": {"name": name, "groups": [{"select": {"name": "bias"}, **group}]}}},
            f"hyperparameters.optimizer.groups[0]{inside}",
            code,
        )
        for case, name, group, inside, code in BAD_GROUPS
    },
    "two groups of one tensor": (
        {"hyperparameters": {"optimizer": {"groups": [{"select": {"name": "bias"}, "options": {}}] * 2}}},
        "hyperparameters.optimizer.groups[1]",
        "invalid_request",
    ),
    "one epsilon for adafactor": (
        {"hyperparameters": {"optimizer": {"name": "adafactor", "eps": 0.1}}},
        "hyperparameters.optimizer.eps",
        "invalid_value",
    ),
    "two warm-ups": (
        {"hyperparameters": {"warmup_steps": 1, "warmup_ratio": 0.1}},
        "hyperparameters",
        "invalid_value",
    ),
    "no column of that name": ({"data": {"target": "price"}}, "training_file", "invalid_training_data"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_bad_job_is_refused_by_field(client: TestClient, upload: Upload, case: str) -> None:
    """400 (404 for a file), the dotted path in `param`, a message, and no job."""
    change, param, code = BAD_JOBS[case]
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}, **change}
    answer = client.post("fine_tuning/jobs", content=json.dumps(body), headers=JSON)  # with NaN, as Python writes it
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert answer.status_code == (404 if code == "not_found" else 400)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 10
    assert client.get("fine_tuning/jobs").json()["data"] == []


def test_an_optimizer_by_its_name_alone_is_told_how(client: TestClient, upload: Upload) -> None:
    """The object that was meant is in the message."""
    body = {"model": AFFINE, "training_file": upload(rows()), "hyperparameters": {"optimizer": "sgd"}}
    answer = client.post("fine_tuning/jobs", json=body)
    assert '{"name": "sgd"}' in answer.json()["error"]["message"]


def test_the_same_without_a_change_is_accepted(client: TestClient, upload: Upload) -> None:
    """So each refusal above is for its own change; and an audit may pass the ignored option on."""
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}
    assert client.post("fine_tuning/jobs", json=body).status_code == 200
    body |= {"freeze_policy": {"freeze": ["weight"], "enforce": False}, "hyperparameters": {"optimizer": SGD}}
    assert client.post("fine_tuning/jobs", json=body).status_code == 200


BAD_FILES: dict[str, tuple[str, bytes, dict[str, Any], int | None, str | None]] = {
    "text in a numeric column": ("a.csv", b"a,b,y\n1,2,3\n1,x,3\n4,5,6\n", {}, 3, "b"),
    "NaN in a numeric column": ("a.csv", b"a,b,y\n1,2,3\n1,2,nan\n4,5,6\n", {}, 3, "y"),
    "no such column": ("a.csv", b"a,b,y\n1,2,3\n4,5,6\n", {"target": "price"}, 1, "price"),
    "not JSON": ("a.jsonl", b'{"x":[1,2],"y":1}\n{"x":[1,2],\n{"x":[1,2],"y":1}\n', {}, 2, None),
    "another width": ("a.jsonl", b'{"x":[1,2],"y":1}\n{"x":[1],"y":1}\n', {}, 2, "x"),
    "missing field": ("a.jsonl", b'{"x":[1,2],"y":1}\n{"x":[1,2]}\n', {}, 2, "y"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_is_refused_by_line_and_field(client: TestClient, upload: Upload, case: str) -> None:
    """Small files are read to their end at POST; `errors` says which line and which field."""
    name, content, data, line, field = BAD_FILES[case]
    body: dict[str, Any] = {"model": AFFINE, "training_file": upload(content, name=name), "data": data or None}
    answer = client.post("fine_tuning/jobs", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("training_file", "invalid_training_data")
    assert [(each["line"], each["field"]) for each in error["errors"]] == [(line, field)]


def test_a_label_seen_once_is_refused(client: TestClient, upload: Upload) -> None:
    """A class that no held-out example can have is a mistake in the data."""
    content = b"a,b,y\n1,2,cat\n3,4,cat\n5,6,dog\n"
    model = {**AFFINE, "task": "classification"}
    answer = client.post("fine_tuning/jobs", json={"model": model, "training_file": upload(content, name="a.csv")})
    (error,) = answer.json()["error"]["errors"]
    assert (answer.status_code, error["code"], error["line"]) == (400, "label_seen_once", 4)


def test_a_file_for_another_purpose_is_refused(client: TestClient, upload: Upload) -> None:
    """Training data says that it is training data."""
    file = upload(rows(), purpose="user_data")
    answer = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_purpose")


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
