"""How to train, as a request says it."""

from typing import Any

from starlette.testclient import TestClient

from tests.app.conftest import AFFINE, Upload, rows


def test_an_optimizer_by_its_name_alone_is_told_how(client: TestClient, upload: Upload) -> None:
    """The object that was meant is in the message."""
    body = {"model": AFFINE, "training_file": upload(rows()), "hyperparameters": {"optimizer": "sgd"}}
    answer = client.post("fine_tuning/jobs", json=body)
    message = answer.json()["error"]["message"]
    assert '{"name": "sgd"}' in message and "{{" not in message


def test_an_unknown_optimizer_is_not_suggested(client: TestClient, upload: Upload) -> None:
    """The names that there are, and an example that would be accepted."""
    body = {"model": AFFINE, "training_file": upload(rows()), "hyperparameters": {"optimizer": "adamw_8bit"}}
    message = client.post("fine_tuning/jobs", json=body).json()["error"]["message"]
    assert '{"name": "adamw"}' in message and '{"name": "adamw_8bit"}' not in message and "muon" in message


def test_a_method_as_the_sdk_gives_it_back(client: TestClient, upload: Upload) -> None:
    """Its null options of other methods ask for nothing; options of a method that is not offered are refused."""
    method: dict[str, Any] = {"type": "supervised", "supervised": {}, "dpo": None, "reinforcement": None}
    body = {"model": AFFINE, "training_file": upload(rows()), "method": method}
    assert client.post("fine_tuning/jobs", json=body).status_code == 200
    refused = client.post("fine_tuning/jobs", json=body | {"method": method | {"reinforcement": {}}})
    assert refused.json()["error"]["param"] == "method.reinforcement"
