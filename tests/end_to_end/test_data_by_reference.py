"""Jobs on data that lies elsewhere, through HTTP: fetched by the worker, checked by line, pinned in the evidence."""

import base64
import hashlib
import json
from typing import Any

import pytest

from tests.end_to_end.conftest import Service
from tests.hub import COMMIT

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}
LINES = [json.dumps({"x": [n, n % 3], "y": n}).encode() + b"\n" for n in range(16)]


def create(service: Service, **fields: Any) -> Any:
    body = {"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}, "hyperparameters": {"n_epochs": 1}}
    return service.ended(str(service.post("fine_tuning/jobs", body | fields)["id"]))


@pytest.fixture
def data(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(service.hub, "kind", "datasets")
    monkeypatch.setattr(service.hub, "files", {"train.jsonl": b"".join(LINES), "test.jsonl": b"".join(LINES[:4])})
    return service


def test_splits_of_a_data_set(data: Service) -> None:
    """Training and validation file become files of the project; their digests are what was signed."""
    job = create(data, training_file="hf://acme/tiny?split=train", validation_file="hf://acme/tiny?split=test")
    assert (job["status"], job["evidence"]["verdict"]) == ("succeeded", "verified"), (job["error"], data.log())
    file = data.get(f"files/{job['training_file']}")
    digest = hashlib.sha256(b"".join(LINES)).hexdigest()
    assert (file["sha256"], file["source"]) == (digest, f"hf://acme/tiny@{COMMIT}?split=train")
    assert data.client.get(f"files/{file['id']}/content").content == b"".join(LINES)
    envelope = data.get(f"fine_tuning/jobs/{job['id']}/attestation")
    assert digest in base64.b64decode(envelope["recipe"]["payload"]).decode()


def test_lines_are_checked_as_those_of_uploads(data: Service) -> None:
    """The job fails before the first step, with line and field; what is not there is named, and nothing tried again."""
    data.hub.files = {"train.jsonl": b"".join(LINES[:3]) + b'{"x": [1], "y": 1}\n'}
    job = create(data, training_file="hf://acme/tiny?split=train")
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", "invalid_training_data", 1)
    assert [(each["line"], each["field"]) for each in job["error"]["errors"]] == [(4, "x")]
    job = create(data, training_file="hf://acme/tiny?split=valid")
    assert (job["error"]["code"], job["error"]["param"], job["attempts"]) == ("source_not_found", "training_file", 1)
