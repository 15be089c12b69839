"""An uploaded file of weights that a torch job names: looked into before the job is stored."""

from typing import Any

import pytest
import torch
from safetensors.torch import save
from starlette.testclient import TestClient

from tests.app.conftest import AFFINE, rows, upload_to

WEIGHTS = {"weight": torch.zeros(2, 1), "bias": torch.zeros(1)}


def post(api: TestClient, content: bytes, model: dict[str, Any] = AFFINE) -> Any:
    upload = upload_to(api)
    weights = upload(content, name="start.safetensors")
    return api.post("fine_tuning/jobs", json={"model": {**model, "weights": weights}, "training_file": upload(rows())})


def test_weights_that_fit_make_a_job(client: TestClient) -> None:
    answer = post(client, save(WEIGHTS))
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "queued"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"PK\x03\x04 a pickle in a zip file", "invalid_weights", "not a safetensors file"),
        (save(WEIGHTS)[:-1], "invalid_weights", "not a safetensors file"),
        (save({"weight": WEIGHTS["weight"]}), "weights_do_not_fit", "'bias' is not there in it, and of shape [1] in"),
        (save(WEIGHTS | {"more": torch.zeros(2)}), "weights_do_not_fit", "'more' is of shape [2] in it, and not there"),
        (save(WEIGHTS | {"weight": torch.zeros(1, 2)}), "weights_do_not_fit", "'weight' is of shape [1, 2] in it, and"),
    ],
    ids=["pickle", "cut off", "one lacks", "one too many", "another shape"],
)
def test_others_are_refused_and_told_where(client: TestClient, content: bytes, code: str, words: str) -> None:
    answer = post(client, content)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "model.weights", code)
    assert words in error["message"]
    assert "start.safetensors" in error["message"]


def test_weights_of_an_architecture_that_the_api_does_not_know_are_only_read(client: TestClient) -> None:
    """What its tensors are is for a worker to find out; that the file is one can be told here."""
    unknown = {"type": "torch", "architecture": "convnet", "kwargs": {"in_channels": 3, "num_classes": 2}}
    assert post(client, b"nothing of the kind", unknown).json()["error"]["code"] == "invalid_weights"
