"""A job's checkpoints through HTTP: listed, downloaded, started from, dropped."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service

SPEC = {"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 4, "out_features": 1, "hidden": [8]}}
FROZEN = {"freeze": ["0.**"]}
SHORT = {"max_steps": 6, "batch_size": 8, "learning_rate": 0.01, "checkpoint_steps": 2, "keep_checkpoints": 5}


def create(service: Service, table: str, model: Any, **changes: Any) -> str:
    body = {"model": model, "training_file": table, "seed": 5, "freeze_policy": FROZEN, "hyperparameters": SHORT}
    return str(service.post("fine_tuning/jobs", body | changes)["id"])


def checkpoints(service: Service, job_id: str) -> list[Any]:
    """Newest first."""
    return list(service.get(f"fine_tuning/jobs/{job_id}/checkpoints")["data"])


def download(service: Service, model: str, folder: Path) -> Path:
    folder.mkdir()
    for file in service.get(f"models/{model}")["files"]:
        (folder / file["name"]).write_bytes(service.client.get(f"models/{model}/files/{file['name']}").content)
    return folder


@pytest.fixture(scope="module")
def job(service: Service, table: str) -> Any:
    job = service.ended(create(service, table, SPEC))
    assert job["status"] == "succeeded", (job["error"], service.log())
    return job


def test_each_listed_checkpoint_is_a_model(service: Service, job: Any, tmp_path: Path) -> None:
    """Each can be read, listed by tensor and downloaded; the last one is the result itself."""
    listed = checkpoints(service, job["id"])
    assert [each["step_number"] for each in listed] == [6, 4, 2]
    assert listed[0]["fine_tuned_model_checkpoint"] == job["fine_tuned_model"]
    seen = set()
    for each in listed:
        model = service.get(f"models/{each['fine_tuned_model_checkpoint']}")
        assert (model["job_id"], model["base_model"]) == (job["id"], f"init:{job['id']}")
        digests = {one["name"]: one["sha256"] for one in service.get(f"models/{model['id']}/tensors")["data"]}
        seen.add(digests["3.weight"])
        folder = download(service, model["id"], tmp_path / str(each["step_number"]))
        assert (folder / "model.safetensors").stat().st_size == model["files"][0]["size"]
    assert len(seen) == 3
    ids = {each["id"] for each in service.get("models")["data"]}
    assert {each["fine_tuned_model_checkpoint"] for each in listed} <= ids


def test_job_starts_from_a_checkpoint(service: Service, job: Any, table: str, tmp_path: Path) -> None:
    """Its base is the checkpoint, byte for byte; its evidence says where that came from, and verifies."""
    start = checkpoints(service, job["id"])[1]["fine_tuned_model_checkpoint"]
    again = service.ended(create(service, table, start, freeze_policy={"freeze": ["3.**"]}))
    assert (again["status"], again["evidence"]["verdict"]) == ("succeeded", "verified"), (again["error"], service.log())
    assert service.get(f"models/{again['fine_tuned_model']}")["base_model"] == start
    envelope = service.client.get(f"fine_tuning/jobs/{again['id']}/attestation").content
    origin = json.loads(base64.b64decode(json.loads(envelope)["payload"]))["predicate"]["base"]["origin"]
    assert origin == {"model": start, "kind": "checkpoint", "job": job["id"], "step": "4"}
    assert service.get(f"models/{start}")["root"] == again["evidence"]["base_root"]
    (tmp_path / "attestation.json").write_bytes(envelope)
    (tmp_path / "key.pub").write_text(service.get("signing_keys")["data"][0]["public_key"])
    result, base = (download(service, each, tmp_path / each[-8:]) for each in (again["fine_tuned_model"], start))
    command = [str(tmp_path / "attestation.json"), "--key", str(tmp_path / "key.pub"), "--result", str(result)]
    assert verify([*command, "--base", str(base)]) == 0
    held = service.client.delete(f"models/{start}")
    assert (held.status_code, held.json()["error"]["code"]) == (409, "model_in_use")
    assert again["fine_tuned_model"] in held.json()["error"]["message"]


def test_dropped_checkpoint_says_so(service: Service, table: str) -> None:
    """With keep_checkpoints 1 each new one takes the place of the last, unless a job waits for that."""
    settings = SHORT | {"max_steps": 1_000_000, "checkpoint_steps": 500, "keep_checkpoints": 1}
    running = create(service, table, SPEC, hyperparameters=settings)
    service.until(running, lambda job: checkpoints(service, running) != [])
    first = checkpoints(service, running)[-1]["fine_tuned_model_checkpoint"]
    waiting = create(service, table, first)
    step = service.job(running)["progress"]["step"]
    service.until(running, lambda job: job["progress"]["step"] > step + 1_500)
    assert first in {each["fine_tuned_model_checkpoint"] for each in checkpoints(service, running)}
    assert service.client.get(f"models/{first}/files/model.safetensors").status_code == 200
    service.post(f"fine_tuning/jobs/{waiting}/cancel")
    service.until(running, lambda job: service.client.get(f"models/{first}").status_code == 410)
    for path in ("", "/tensors", "/files/model.safetensors"):
        gone = service.client.get(f"models/{first}{path}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "model_gone")
        assert "keep_checkpoints" in gone.json()["error"]["message"]
    body = {"model": first, "training_file": table}
    refused = service.post("fine_tuning/jobs", body, status=400)["error"]
    assert (refused["code"], refused["param"]) == ("model_gone", "model")
    assert first not in {each["id"] for each in service.get("models")["data"]}
    service.post(f"fine_tuning/jobs/{running}/cancel")
    left = checkpoints(service, running)
    assert left and service.get(f"models/{left[0]['fine_tuned_model_checkpoint']}")["kind"] == "checkpoint"
