"""How to train, as a request says it."""

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
