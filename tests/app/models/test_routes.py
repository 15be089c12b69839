"""/v1/models and previews: listing, composing, registering, refusing."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from openai import NotFoundError, OpenAI
from safetensors.numpy import load, save
from starlette.testclient import TestClient

from app.db import Database, now
from app.evidence.diff.changes import Change
from app.evidence.format.digest import read_file
from app.freeze.plan import TensorInfo
from app.http.dependencies import Backends
from app.models.catalog import layout
from app.models.schemas import ChangeStatistics, ModelComparison
from app.models.tables import Model
from tests.app.conftest import AFFINE, Upload, rows

SPEC = {"type": "transformers", "path": "tiny", "task": "text-classification"}
NAMES = ["bert.embeddings.weight", "bert.encoder.layer.0.weight", "classifier.weight"]


@pytest.fixture
def backends(embedded: FastAPI) -> Backends:
    made: Backends = embedded.state.backends
    return made


def add_model(backends: Backends, folder: Path, model_id: str = "tiny", **fields: Any) -> Model:
    """A base model of three tensors, stored as a worker stores one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    path.write_bytes(save({name: np.full((2, 3), at, np.float32) for at, name in enumerate(NAMES)}))
    blob, reading = backends.storage.put(path), read_file(path)
    row = Model(id=model_id, owned_by="permafrost", kind="base", status="ready", spec=SPEC, root="ab" * 32)
    row.files = [{"name": path.name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key}]
    row.tensors = [stored(each, blob.key) for each in reading.tensors]
    row.manifest = [TensorInfo(name, (2, 3), "F32").to_json() for name in NAMES]
    for name, value in fields.items():
        setattr(row, name, value)
    with backends.database.write() as session:
        row.created_at = now(session)
        session.add(row)
    return row


def stored(tensor: Any, blob: str) -> dict[str, Any]:
    values = {key: getattr(tensor, key) for key in ("name", "dtype", "nbytes", "sha256", "offset")}
    return {**values, "shape": list(tensor.shape), "file": "model.safetensors", "blob": blob}


def add_result(backends: Backends, folder: Path, base: Model) -> Model:
    """A result that changed one of the base's tensors: its file is composed of both blobs."""
    path = folder / "changed.safetensors"
    path.write_bytes(save({NAMES[2]: np.full((2, 3), 9, np.float32)}))
    blob, (changed,) = backends.storage.put(path), read_file(path).tensors
    tensors = [each for each in base.tensors if each["name"] != changed.name] + [stored(changed, blob.key)]
    row = Model(id="ft:tiny:default:x:1", project="default", owned_by="default", kind="fine_tuned", status="ready")
    row.spec, row.base_id, row.tensors, row.files = SPEC, base.id, tensors, []
    composed = layout(row, "model.safetensors")
    digest = composed.sha256(backends.storage.open)
    row.files = [{"name": "model.safetensors", "size": composed.size, "sha256": digest, "blob": None}]
    with backends.database.write() as session:
        row.created_at = now(session)
        session.add(row)
    return row


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


# ---- folders of the operator


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


def test_a_job_may_name_a_folder(client: TestClient, backends: Backends, upload: Upload) -> None:
    """As an id or as a spec; the task comes from the file. A name that is nearly right is told."""
    folder(backends)
    file = upload([{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(6)])
    for model in ("tiny", {"type": "transformers", "path": "tiny"}):
        job = client.post("fine_tuning/jobs", json={"model": model, "training_file": file}).json()
        assert (job["model"], job["model_spec"]["path"], job["task"]) == ("tiny", "tiny", "text-classification")
        assert job["freeze_plan"] is None
    error = client.post("fine_tuning/jobs", json={"model": "tinny", "training_file": file}).json()["error"]
    assert "did you mean 'tiny'" in error["message"]


# ---- policies over known tensors


def test_a_policy_is_resolved_at_once_where_the_tensors_are_known(
    client: TestClient, backends: Backends, tmp_path: Path, upload: Upload
) -> None:
    """A rule that matches nothing is refused at POST, with the nearest real names."""
    add_model(backends, tmp_path)
    file = upload([{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(6)])
    body = {"model": "tiny", "training_file": file, "freeze_policy": {"freeze": ["bert.embedings.**"]}}
    error = client.post("fine_tuning/jobs", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_freeze_policy", "freeze_policy.freeze")
    assert "bert.embeddings" in error["message"]
    body["freeze_policy"] = {"freeze": ["bert.**"]}
    job = client.post("fine_tuning/jobs", json=body).json()
    assert job["freeze_plan"]["frozen"]["tensors"] == 2


def test_a_model_of_another_task_is_not_judged_by_these_tensors(
    client: TestClient, backends: Backends, tmp_path: Path, upload: Upload
) -> None:
    """A token classifier has another head: its policy is resolved by the trainer, not refused here."""
    add_model(backends, tmp_path)
    file = upload([{"tokens": ["a", "b"], "labels": ["X", "Y"]} for _ in range(6)])
    model = {"type": "transformers", "path": "tiny", "task": "token-classification"}
    body = {"model": model, "training_file": file, "freeze_policy": {"freeze": ["roberta.**"]}}
    job = client.post("fine_tuning/jobs", json=body)
    assert (job.status_code, job.json()["freeze_plan"]) == (200, None)


def test_a_preview_shows_the_plan_without_training(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """Counts, memory, decisions by page; the model by id, by spec, and affine without any registration."""
    add_model(backends, tmp_path)
    policy = {"freeze": ["bert.**"], "mechanism": "detach"}
    for model in ("tiny", SPEC):
        found = client.post(
            "freeze_policies/preview", json={"model": model, "freeze_policy": policy, "limit": 2}
        ).json()
        assert found["freeze_plan"]["frozen"]["tensors"] == 2
        assert [row["action"] for row in found["data"]] == ["freeze", "freeze"]
        assert found["has_more"] is True
    body = {"model": "tiny", "freeze_policy": policy, "after": found["last_id"]}
    assert [row["name"] for row in client.post("freeze_policies/preview", json=body).json()["data"]] == NAMES[2:]
    affine = client.post(
        "freeze_policies/preview", json={"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}}
    ).json()
    assert affine["freeze_plan"]["trainable"]["elements"] == 1
    assert client.get("fine_tuning/jobs").json()["data"] == []


def test_a_preview_of_unknown_tensors_says_what_to_do(client: TestClient, backends: Backends) -> None:
    """The model exists, but nobody has read it yet."""
    folder(backends)
    answer = client.post("freeze_policies/preview", json={"model": "tiny", "freeze_policy": {"freeze": ["bert.**"]}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_described")
    assert "POST /v1/models" in answer.json()["error"]["message"]


def test_affine_is_known_without_torch(client: TestClient, upload: Upload) -> None:
    """Its tensors follow from its kwargs."""
    job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": upload(rows())}).json()
    assert job["freeze_plan"]["trainable"] == {"tensors": 2, "elements": 3, "bytes": 12}


def test_kindred_models_share_their_names(
    client: TestClient, backends: Backends, tmp_path: Path, upload: Upload
) -> None:
    """A result of the same folder and task tells the names that a policy for the bare folder must fit."""
    folder(backends)
    add_model(backends, tmp_path, "ft:tiny:1", kind="fine_tuned", project="default")
    policy = {"freeze": ["bert.embedings.**"]}
    file = upload([{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(6)])
    body = {"model": SPEC, "training_file": file, "freeze_policy": policy}
    assert client.post("fine_tuning/jobs", json=body).json()["error"]["param"] == "freeze_policy.freeze"
    preview = client.post("freeze_policies/preview", json={"model": SPEC, "freeze_policy": {"freeze": ["bert.**"]}})
    assert preview.json()["freeze_plan"]["frozen"]["tensors"] == 2
    beside = {"model": "tiny", "task": SPEC["task"], "freeze_policy": {"freeze": ["bert.**"]}}
    assert client.post("freeze_policies/preview", json=beside).json()["freeze_plan"] == preview.json()["freeze_plan"]


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


def test_adapter_is_trained_on(client: TestClient, backends: Backends, tmp_path: Path, upload: Upload) -> None:
    """Over the adapter's base, and neither goes while the job waits; a plain job on that base is none the wiser."""
    base = add_model(backends, tmp_path)
    spec = {**SPEC, "adapter": {"type": "lora", "r": 2}}
    manifest = [TensorInfo("base_model.model.lora_A.weight", (2, 3), "F32").to_json()]
    fields = {"kind": "fine_tuned", "project": "default", "base_id": base.id, "spec": spec, "manifest": manifest}
    adapter = add_model(backends, tmp_path, "ft:tiny:default:a:1", **fields)
    file = upload([{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(6)])
    job = client.post("fine_tuning/jobs", json={"model": adapter.id, "training_file": file}).json()
    assert job["model_spec"]["adapter"] == {"type": "lora", "r": 2, "start": adapter.id}
    for needed in (adapter.id, base.id):
        refused = client.delete(f"models/{needed}")
        assert refused.status_code == 409 and job["id"] in refused.json()["error"]["message"]
    policy = {"freeze": ["bert.**"]}
    assert client.post("freeze_policies/preview", json={"model": adapter.id}).status_code == 400
    assert client.post("freeze_policies/preview", json={"model": SPEC, "freeze_policy": policy}).status_code == 200


def compare(client: TestClient, base: Any, result: Any, **options: Any) -> Any:
    answer = client.post("models/compare", json={"base": base, "result": result, **options})
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"])


def test_what_changed_between_two_models(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """Changed tensors with statistics; all of them, or without statistics, when asked for."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    found = compare(client, base.id, result.id)
    ModelComparison.model_validate(found, extra="forbid")
    assert found["counts"] == {"same": 2, "changed": 1, "dtype": 0, "shape": 0, "added": 0, "removed": 0}
    (tensor,) = found["tensors"]
    assert (tensor["name"], tensor["status"]) == (NAMES[2], "changed")
    assert (tensor["change"]["changed"], tensor["change"]["max_abs"], found["verdict"]) == (6, 7.0, None)
    assert set(ChangeStatistics.model_fields) == {field.name for field in fields(Change)}
    plain = compare(client, base.id, result.id, statistics=False, unchanged=True)
    assert [(each["status"], each["change"]) for each in plain["tensors"]] == [
        ("same", None),
        ("same", None),
        ("changed", None),
    ]


@pytest.mark.parametrize(("names", "verdict"), [(["bert.**"], "identical"), (["**"], "violated")])
def test_a_policy_makes_it_an_audit(
    client: TestClient, backends: Backends, tmp_path: Path, names: list[str], verdict: str
) -> None:
    """What the policy freezes has to be the base's; the rest may be anything."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    found = compare(client, base.id, result.id, freeze_policy={"freeze": names})
    assert found["verdict"] == verdict
    broken = [{"name": NAMES[2], "rule": "rule-1", "reason": "its bytes changed"}]
    assert found["violations"] == (broken if verdict == "violated" else [])


def test_what_cannot_be_compared_is_refused_before_the_answer_begins(
    client: TestClient, backends: Backends, tmp_path: Path
) -> None:
    """Unknown models and policies that do not fit, by field; a model that nobody has read yet; a blob that is gone."""
    base = add_model(backends, tmp_path)
    result = add_result(backends, tmp_path, base)
    assert compare(client, "nobody", base.id)[0] == 404
    status, error = compare(client, base.id, result.id, freeze_policy={"freeze": ["bret.**"]})
    assert (status, error["code"]) == (400, "invalid_freeze_policy")
    assert error["param"].startswith("freeze_policy")
    assert compare(client, base.id, result.id, extra=1)[0] == 400
    pending = add_model(backends, tmp_path, "pending", status="pending", tensors=[])
    assert compare(client, base.id, pending.id)[1]["code"] == "model_not_read"
    backends.storage.delete(base.tensors[0]["blob"])
    status, error = compare(client, base.id, result.id)
    assert (status, "doctor" in error["message"]) == (404, True)


def test_an_unknown_model_says_what_there_is(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """Bases before results, each once; the name of an architecture is answered with how to write it."""
    folder(backends)
    add_model(backends, tmp_path / "a")
    add_model(backends, tmp_path / "b", "ft:tiny:1", kind="fine_tuned", project="default")
    body = {"training_file": "file-1", "freeze_policy": {}}
    message = client.post("fine_tuning/jobs", json=body | {"model": "zzz"}).json()["error"]["message"]
    assert message.endswith("available: tiny, ft:tiny:1")
    message = client.post("fine_tuning/jobs", json=body | {"model": "mlp"}).json()["error"]["message"]
    assert '{"type": "torch", "architecture": "mlp"' in message
