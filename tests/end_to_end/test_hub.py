"""A job on a hub's model through HTTP: fetched by the worker, pinned to a commit, kept like any other base."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Service
from tests.hub import COMMIT


@pytest.fixture(scope="module")
def texts(service: Service, tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    from tests.worker.trainer import tiny

    folder = tiny.llama(tmp_path_factory.mktemp("hub"))
    service.hub.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"modeling_x.py": b"import os"}
    return service.upload(b'{"text": "the cat sat on the mat"}\n' * 8, "texts.jsonl")


def create(service: Service, texts: str, **model: Any) -> Any:
    body = {
        "model": {"type": "transformers", "path": "acme/tiny", "task": "causal-lm", **model},
        "training_file": texts,
        "hyperparameters": {"n_epochs": 1, "batch_size": 4},
        "freeze_policy": {"freeze": ["model.norm.**"]},
    }
    return service.ended(str(service.post("fine_tuning/jobs", body)["id"]))


def test_model_of_a_hub_is_pinned_and_kept(service: Service, texts: str, tmp_path: Path) -> None:
    """A branch becomes the commit that it is; the next job on that commit asks the hub for nothing."""
    job = create(service, texts)
    assert (job["status"], job["evidence"]["verdict"]) == ("succeeded", "verified"), (job["error"], service.log())
    assert job["model_spec"]["revision"] == COMMIT
    model = service.get(f"models/acme/tiny@{COMMIT}")
    assert model["spec"] == {"type": "transformers", "path": "acme/tiny", "revision": COMMIT}
    assert {each["name"] for each in model["files"]} == service.hub.files.keys() - {"modeling_x.py"}
    envelope = service.get(f"fine_tuning/jobs/{job['id']}/attestation")
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    origin = {"model": model["id"], "kind": "base", "repository": "acme/tiny", "revision": COMMIT}
    assert predicate["base"]["origin"] == origin
    asked = len(service.hub.asked)
    assert create(service, texts, revision=COMMIT)["status"] == "succeeded"
    assert len(service.hub.asked) == asked


def test_gated_model_needs_the_projects_secret(service: Service, texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by name without one, and with a wrong one; trained on with the right one, which shows up nowhere."""
    token = "hf_" + "c0ffee" * 5
    monkeypatch.setattr(service.hub, "gated", True)
    monkeypatch.setattr(service.hub, "token", token)
    refused = create(service, texts, revision="main")
    assert (refused["status"], refused["error"]["code"], refused["attempts"]) == ("failed", "hub_model_gated", 1)
    assert "permafrost secrets set" in refused["error"]["message"]
    service.post("secrets", {"name": "hub", "kind": "hub", "scope": "acme", "value": "hf_wrong"})
    refused = create(service, texts, revision="main")
    assert (refused["error"]["code"], refused["attempts"]) == ("secret_refused", 1)
    service.post("secrets", {"name": "hub", "kind": "hub", "scope": "acme", "value": token})
    job = create(service, texts, revision="main")
    assert (job["status"], job["evidence"]["verdict"]) == ("succeeded", "verified"), (job["error"], service.log())
    said = json.dumps(job) + service.client.get(f"fine_tuning/jobs/{job['id']}/logs").text + service.log()
    assert token not in said
    assert service.client.delete("secrets/hub").status_code == 200


def test_unknown_revision_fails_the_job_by_name(service: Service, texts: str) -> None:
    """Nothing is half made, and the error says which field is wrong."""
    error = create(service, texts, revision="v9")["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model.revision")
    assert "v9" in error["message"]


@pytest.mark.parametrize(
    ("path", "revision"),
    [("acme/../x", None), ("acme/tiny/more", None), ("/etc/passwd", None), ("minilm", "main"), ("acme/tiny", "../x")],
)
def test_what_is_no_hub_id_is_refused(service: Service, texts: str, path: str, revision: str | None) -> None:
    """At the request, before anything is asked of anybody."""
    model = {"type": "transformers", "path": path} | ({"revision": revision} if revision else {})
    error = service.post("fine_tuning/jobs", {"model": model, "training_file": texts}, status=400)["error"]
    assert error["param"].startswith("model")
