"""How to train, as a request says it."""

from starlette.testclient import TestClient

from tests.app.conftest import AFFINE, Upload, rows


def test_an_optimizer_by_its_name_alone_is_told_how(client: TestClient, upload: Upload) -> None:
    """The object that was meant is in the message."""
    body = {"model": AFFINE, "training_file": upload(rows()), "hyperparameters": {"optimizer": "sgd"}}
    answer = client.post("fine_tuning/jobs", json=body)
    message = answer.json()["error"]["message"]
    assert '{"name": "sgd"}' in message and "{{" not in message
