"""The OpenAPI document: complete, true, and equal to OpenAI's where OpenAI has the operation."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from migrations.upgrade import upgrade
from tests.app.conftest import AFFINE, rows, serve, upload_to
from tests.app.guarded import guard, one_of_everything
from tests.patience import PATIENCE
from tools import fuzz

#: Operations of OpenAI's own document, by their method and path.
OPENAIS = {
    "createFile": ("post", "/v1/files"),
    "listFiles": ("get", "/v1/files"),
    "retrieveFile": ("get", "/v1/files/{file_id}"),
    "deleteFile": ("delete", "/v1/files/{file_id}"),
    "downloadFile": ("get", "/v1/files/{file_id}/content"),
    "createUpload": ("post", "/v1/uploads"),
    "addUploadPart": ("post", "/v1/uploads/{upload_id}/parts"),
    "completeUpload": ("post", "/v1/uploads/{upload_id}/complete"),
    "cancelUpload": ("post", "/v1/uploads/{upload_id}/cancel"),
    "createFineTuningJob": ("post", "/v1/fine_tuning/jobs"),
    "listPaginatedFineTuningJobs": ("get", "/v1/fine_tuning/jobs"),
    "retrieveFineTuningJob": ("get", "/v1/fine_tuning/jobs/{fine_tuning_job_id}"),
    "cancelFineTuningJob": ("post", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel"),
    "pauseFineTuningJob": ("post", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause"),
    "resumeFineTuningJob": ("post", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume"),
    "listFineTuningEvents": ("get", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events"),
    "listFineTuningJobCheckpoints": ("get", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints"),
    "listModels": ("get", "/v1/models"),
    "retrieveModel": ("get", "/v1/models/{model}"),
    "deleteModel": ("delete", "/v1/models/{model}"),
}


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("http://testserver/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_operations_are_called_as_openai_calls_them(document: dict[str, Any]) -> None:
    """Generated clients keep their method names; every id is there once."""
    found = {operation["operationId"]: (method, path) for method, path, operation in operations(document)}
    assert {name: found.get(name) for name in OPENAIS} == OPENAIS
    assert len(found) == len(list(operations(document)))
    assert document["openapi"].startswith("3.1")


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    """A summary, one described tag, and the errors that any route can answer with."""
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for method, path, operation in operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= described, path
        assert len(operation["tags"]) == 1
        if path.startswith("/v1"):
            assert {"400", "401", "403", "404", "413", "429", "500"} <= set(operation["responses"]), (method, path)
            assert operation["security"], path


def test_bodies_have_examples_that_are_valid(document: dict[str, Any]) -> None:
    """What the page offers to try is accepted by the schema that it documents."""
    bodies = 0
    for _, path, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            if media_type != "application/json":
                continue
            examples = [each["value"] for each in content.get("examples", {}).values()]
            examples += content["schema"].get("examples", [])
            for branch in [content["schema"], *content["schema"].get("anyOf", [])]:
                reference = branch.get("$ref", "").rpartition("/")[2]
                examples += document["components"]["schemas"].get(reference, {}).get("examples", [])
            assert examples, path
            validator = jsonschema_rs.validator_for({**content["schema"], "components": document["components"]})
            for example in examples:
                validator.validate(example)
                bodies += 1
    assert bodies >= 10


def test_answers_have_examples_that_are_valid(document: dict[str, Any]) -> None:
    """Every schema of an answer carries one."""
    schemas = document["components"]["schemas"]
    for _, path, operation in operations(document):
        content = operation["responses"]["200"].get("content", {}).get("application/json")
        if content is None or not path.startswith("/v1"):
            continue
        validator = jsonschema_rs.validator_for({**content["schema"], "components": document["components"]})
        for branch in content["schema"].get("oneOf", [content["schema"]]):
            name = branch["$ref"].rpartition("/")[2]
            assert schemas[name].get("examples"), (path, name)
            for example in schemas[name]["examples"]:
                validator.validate(example)


def test_the_three_mechanisms_are_there_to_try(document: dict[str, Any]) -> None:
    """By name, in the first operation of the page."""
    body = document["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert {"requires_grad", "detach", "param_group"} <= set(body["examples"])


def test_a_service_without_keys_says_that_none_is_needed(document: dict[str, Any]) -> None:
    """An empty requirement is the specification's way to say "or nothing"."""
    assert {} in document["paths"]["/v1/files"]["get"]["security"]
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.slow
def test_no_request_that_the_document_allows_breaks_the_service(tmp_path: Path) -> None:
    """Schemathesis, every check, stateful, bounded (`make fuzz` goes on for longer): no 5xx, and no answer against its
    schema; with ids made up on the way, then with those of objects that are there."""
    settings = Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    upgrade(settings.database)
    application = create_app(settings)
    phases = ["examples,fuzzing,stateful", "fuzzing"]
    with serve(application) as url:
        ids = things(f"{url}/v1/")
        for command, chosen in zip(fuzz.runs(url, tmp_path, ids), phases, strict=True):
            command += ["--seed", "1", "--phases", chosen, "--max-examples", "6"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
            assert done.returncode == 0, done.stdout[-6000:]
            assert "Test cases:" in done.stdout


def things(url: str) -> dict[str, str]:
    """One of each, by the name of its path parameter."""
    with httpx2.Client(base_url=url, timeout=PATIENCE) as client:
        file = upload_to(client)(rows())
        job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).json()["id"]
        client.post(f"fine_tuning/jobs/{job}/cancel")  # the streams of a job that goes on would not end
        wanted = {"name": "a", "url": "https://hooks.example.org/x", "event_types": ["fine_tuning.job.succeeded"]}
        endpoint = client.post("webhook_endpoints", json=wanted).json()["id"]
    return {"file_id": file, "fine_tuning_job_id": job, "webhook_endpoint_id": endpoint}


def test_every_response_has_a_documented_type(tmp_path: Path) -> None:
    """Status and content type of what each route answers: with a key and without, for an object and for none."""
    guarded = guard(Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"))
    document = guarded.application.openapi()
    seen: set[tuple[str, str]] = set()
    undocumented: set[tuple[str, int, str]] = set()
    with TestClient(guarded.application, base_url="http://testserver/v1/") as client:
        ids = one_of_everything(guarded, client)
        for accept in ("*/*", "application/problem+json"):
            for key in ({}, guarded.headers("mine")):
                for values in (ids, dict.fromkeys(ids, "none")):
                    for method, path, operation in operations(document):
                        if method == "delete":
                            continue
                        url = f"http://testserver{path.format(**values)}"
                        answer = client.request(method, url, headers={**key, "accept": accept}, json={})
                        media_type = answer.headers["content-type"].partition(";")[0]
                        response = operation["responses"].get(str(answer.status_code), {})
                        if media_type not in response.get("content", {}):
                            undocumented.add((operation["operationId"], answer.status_code, media_type))
                        seen.add((str(answer.status_code), media_type))
    assert undocumented == set()
    assert {status for status, _ in seen} >= {"200", "400", "401", "404"}
    assert ("401", "application/problem+json") in seen
