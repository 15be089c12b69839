"""Which model a request names, and which of its tensors are known before a job runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.freeze.plan import TensorInfo
from app.http.dependencies import Backends
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.models.models import NAMES, SPEC, add_model


def folder(backends: Backends, name: str = "tiny", architecture: str = "BertForSequenceClassification") -> Path:
    path: Path = backends.settings.models / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [architecture]}))
    return path


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


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("adapter_config.json", "holds an adapter, and no model (config.json): put the model that the adapter is for"),
        ("weights.Q4_K_M.gguf", "holds GGUF files, and no config.json: take the model as transformers stores it"),
        ("model.safetensors", "has no config.json, which says what kind of model it holds"),
    ],
)
@pytest.mark.parametrize("model", ["mine", {"type": "transformers", "path": "mine"}])
def test_a_folder_that_holds_no_model_says_what_it_lacks(
    client: TestClient, backends: Backends, upload: Upload, file: str, says: str, model: Any
) -> None:
    """It is there, so another name of a similar spelling would be no help."""
    folder(backends, "mine-2")
    lacking = backends.settings.models / "mine"
    lacking.mkdir()
    (lacking / file).write_text("{}")
    body = {"model": model, "training_file": upload([{"text": "a", "label": "x"}] * 4)}
    error = client.post("fine_tuning/jobs", json=body).json()["error"]
    assert error["code"] == "model_not_found"
    assert f"the folder 'mine' {says}" in error["message"]


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


def test_an_unknown_model_says_what_there_is(client: TestClient, backends: Backends, tmp_path: Path) -> None:
    """Bases before results, each once; the name of an architecture is answered with how to write it."""
    folder(backends)
    add_model(backends, tmp_path / "a")
    add_model(backends, tmp_path / "b", "ft:tiny:1", kind="fine_tuned", project="default")
    add_model(backends, tmp_path / "c", "init:ftjob-1", kind="initial", project="default")
    body = {"training_file": "file-1", "freeze_policy": {}}
    message = client.post("fine_tuning/jobs", json=body | {"model": "zzz"}).json()["error"]["message"]
    assert message.endswith("available: tiny, ft:tiny:1")
    message = client.post("fine_tuning/jobs", json=body | {"model": "mlp"}).json()["error"]["message"]
    assert '{"type": "torch", "architecture": "mlp"' in message
    spec = {"type": "transformers", "path": "ft:tiny:1", "adapter": {"type": "lora"}}
    message = client.post("fine_tuning/jobs", json=body | {"model": spec}).json()["error"]["message"]
    assert "is the result of a job" in message and "available" not in message


def test_prefixes_of_a_store(client: TestClient, upload: Upload) -> None:
    """Taken as they are, for a worker to fetch; what is no prefix, or no digest, is refused by its field."""
    file = upload([{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(6)])
    spec = {"type": "transformers", "path": "s3://bucket/models/tiny", "task": "text-classification"}
    for change in ({}, {"revision": "ab" * 32}):
        job = client.post("fine_tuning/jobs", json={"model": spec | change, "training_file": file}).json()
        assert (job["model"], job["model_spec"].get("revision")) == (spec["path"], change.get("revision")), job
    for change, param in (
        ({"path": "s3://bucket"}, "model.path"),
        ({"path": "s3://bucket/../x"}, "model.path"),
        ({"path": "s3://bucket/" + "a" * 200}, "model.path"),
        ({"revision": "main"}, "model.revision"),
    ):
        error = client.post("fine_tuning/jobs", json={"model": spec | change, "training_file": file}).json()["error"]
        assert error["param"] == param, error
