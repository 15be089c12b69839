"""/v1/models and previews: listing, composing, registering, refusing."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from openai import NotFoundError, OpenAI
from safetensors.numpy import load
from starlette.testclient import TestClient

from app.db import Database
from app.http.dependencies import Backends
from tests.app.conftest import Upload
from tests.app.models.models import NAMES, add_model, add_result


def test_the_sdk_lists_reads_and_deletes_models(openai: OpenAI, embedded: FastAPI, tmp_path: Path) -> None:
    """Every call of the SDK's models resource; an id with colons travels unharmed."""
    backends: Backends = embedded.state.backends
    result = add_result(backends, tmp_path, add_model(backends, tmp_path))
    assert [model.id for model in openai.models.list()] == [result.id, "tiny"]
    found = openai.models.retrieve(result.id)
    assert (found.id, found.object, found.owned_by) == (result.id, "model", "default")
    assert openai.models.delete(result.id).deleted
    with pytest.raises(NotFoundError) as raised:
        openai.models.retrieve(result.id)
    assert raised.value.code == "model_not_found"


def test_an_id_with_a_slash_is_found(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """The SDK sends `/` as %2F, which is a slash again by the time routes are matched."""
    add_model(backends, tmp_path, "org/tiny")
    assert client.get("models/org%2Ftiny").json()["id"] == "org/tiny"
    assert client.get("models/org%2Ftiny/tensors").json()["data"][0]["name"] == NAMES[0]
    assert client.get("models/org%2Ftiny/files/model.safetensors").status_code == 200


def test_a_result_is_composed_while_it_streams(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """The safetensors library reads it: frozen tensors of the base, the changed one of the result; ranges agree."""
    result = add_result(backends, tmp_path, add_model(backends, tmp_path))
    answer = client.get(f"models/{result.id}/files/model.safetensors")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["etag"] == f'"sha256:{hashlib.sha256(answer.content).hexdigest()}"'
    assert {name: array[0, 0] for name, array in load(answer.content).items()} == dict(
        zip(NAMES, (0, 1, 9), strict=True)
    )
    for start, stop in ((0, 7), (5, len(answer.content) - 3), (len(answer.content) - 1, len(answer.content))):
        part = client.get(f"models/{result.id}/files/model.safetensors", headers={"range": f"bytes={start}-{stop - 1}"})
        assert (part.status_code, part.content) == (206, answer.content[start:stop])


def test_a_file_that_a_model_does_not_have_is_named(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """404 with the names that there are."""
    add_model(backends, tmp_path)
    answer = client.get("models/tiny/files/pytorch_model.bin")
    assert answer.status_code == 404
    assert "model.safetensors" in answer.json()["error"]["message"]


def test_tensors_are_paged_by_name(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """The digests are those of the bytes; a cursor goes on behind its tensor."""
    add_model(backends, tmp_path)
    page = client.get("models/tiny/tensors", params={"limit": 2}).json()
    assert ([each["name"] for each in page["data"]], page["has_more"]) == (NAMES[:2], True)
    digest = hashlib.sha256(np.full((2, 3), 0, np.float32).tobytes()).hexdigest()
    assert page["data"][0]["sha256"] == digest
    rest = client.get("models/tiny/tensors", params={"after": page["last_id"]}).json()
    assert ([each["name"] for each in rest["data"]], rest["has_more"]) == (NAMES[2:], False)
    assert client.get("models/tiny/tensors?after=x").json()["error"]["param"] == "after"


def test_a_base_that_something_is_made_of_stays(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """409 that names the result; once that is gone the base goes, and its blobs with it."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    answer = client.delete("models/tiny")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_in_use")
    assert result.id in answer.json()["error"]["message"]
    (own,) = {each["blob"] for each in result.tensors} - {each["blob"] for each in base.tensors}
    assert client.delete(f"models/{result.id}").status_code == 200
    assert not backends.storage.exists(own)
    assert backends.storage.exists(base.files[0]["blob"])
    assert client.delete("models/tiny").status_code == 200
    assert not backends.storage.exists(base.files[0]["blob"])


def test_a_base_that_a_waiting_job_needs_stays(
    client: TestClient, backends: Backends, tmp_path: Path, upload: Upload
) -> None:
    """409 that names the job."""
    add_model(backends, tmp_path)
    file = upload([{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(6)])
    job = client.post("fine_tuning/jobs", json={"model": "tiny", "training_file": file}).json()
    assert job["id"] in client.delete("models/tiny").json()["error"]["message"]
    client.post(f"fine_tuning/jobs/{job['id']}/cancel")
    assert client.delete("models/tiny").status_code == 200


def test_another_projects_model_is_not_there(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """Neither in lists, nor by id, nor as a job's model."""
    add_model(backends, tmp_path, "theirs", project="other")
    assert client.get("models").json()["data"] == []
    assert client.get("models/theirs").status_code == 404
    body = {"model": "theirs", "training_file": "file-none"}
    assert client.post("fine_tuning/jobs", json=body).json()["error"]["code"] == "model_not_found"


def folder(backends: Backends, name: str = "tiny", architecture: str = "BertForSequenceClassification") -> Path:
    path: Path = backends.settings.models / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [architecture]}))
    return path


def test_a_folder_is_available_and_can_be_registered(client: TestClient, backends: Backends) -> None:
    """First `available`, then `pending` for a worker, with the task that config.json names; again changes nothing."""
    folder(backends)
    (found,) = client.get("models").json()["data"]
    assert (found["id"], found["status"]) == ("tiny", "available")
    assert client.get("models/tiny").json()["status"] == "available"
    made = client.post("models", json={"path": "tiny"}).json()
    assert (made["id"], made["status"], made["spec"]["task"]) == ("tiny", "pending", "text-classification")
    assert client.post("models", json={"path": "tiny"}).json() == made
    assert len(client.get("models").json()["data"]) == 1
    other = client.post("models", json={"path": "tiny", "id": "tiny-tokens", "task": "token-classification"}).json()
    assert (other["id"], other["spec"]["task"]) == ("tiny-tokens", "token-classification")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"path": "tinny"}, 400, "path"),
        ({"path": "../tiny"}, 400, "path"),
        ({"path": "tiny", "id": "a/b"}, 400, "id"),
        ({"path": "tiny", "id": "taken"}, 409, "id"),
        ({"path": "tiny", "name": "x"}, 400, "name"),
    ],
)
def test_a_bad_registration_is_refused(
    client: TestClient, backends: Backends, tmp_path: Path, body: dict[str, str], status: int, param: str
) -> None:
    """By field, with the nearest name where there is one."""
    folder(backends)
    add_model(backends, tmp_path, "taken", project="other")
    answer = client.post("models", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_the_database_is_asked_once_for_a_page(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """A list of models does not read their tensors."""
    db: Database = backends.database
    for number in range(3):
        add_model(backends, tmp_path, f"tiny-{number}")
    from sqlalchemy import event

    asked: list[str] = []
    for engine in db._engines:
        event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    assert len(client.get("models").json()["data"]) == 3
    assert len([statement for statement in asked if "FROM models" in statement]) == 1
    assert not any("models.tensors" in statement for statement in asked)
