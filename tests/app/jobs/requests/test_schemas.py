"""The fields of a request for a job."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import AFFINE, rows, upload_to


def create(api: TestClient, file: str, **more: Any) -> dict[str, Any]:
    answer = api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tags": ["x" * 65]}, "tags[0]"),
        ({"tags": [""]}, "tags[0]"),
        ({"tags": [str(n) for n in range(17)]}, "tags"),
        ({"retries": -1}, "retries"),
        ({"max_run_seconds": 0}, "max_run_seconds"),
        ({"max_run_seconds": 1, "hyperparameters": {"max_run_seconds": 2}}, None),
    ],
)
def test_controls_out_of_range_are_refused(client: TestClient, body: dict[str, Any], param: str | None) -> None:
    """By field; a limit that is given twice is refused, not guessed."""
    answer = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": "file-1", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_limit_of_a_run_is_where_the_trainer_looks_for_it(client: TestClient) -> None:
    """A control of the job at the top of the request and of the answer; a setting among the trainer's others."""
    file = upload_to(client)(rows())
    job = create(client, file, max_run_seconds=90, hyperparameters={"n_epochs": 2}, retries=0)
    assert (job["max_run_seconds"], job["retries"]) == (90, 0)
    assert job["hyperparameters"]["max_run_seconds"] == 90
    assert job["hyperparameters"]["n_epochs"] == 2
    assert create(client, file, hyperparameters={"max_run_seconds": 5})["max_run_seconds"] == 5
