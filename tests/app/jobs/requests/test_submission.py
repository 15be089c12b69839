"""Refusals of jobs, before anything is stored."""

import json

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.requests.bad_jobs import BAD_JOBS, JSON, SGD


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_bad_job_is_refused_by_field(client: TestClient, upload: Upload, case: str) -> None:
    """400 (404 for a file), the dotted path in `param`, a message, and no job."""
    change, param, code = BAD_JOBS[case]
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}, **change}
    answer = client.post("fine_tuning/jobs", content=json.dumps(body), headers=JSON)  # with NaN, as Python writes it
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert answer.status_code == (404 if code == "not_found" else 400)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 10
    assert client.get("fine_tuning/jobs").json()["data"] == []


def test_the_same_without_a_change_is_accepted(client: TestClient, upload: Upload) -> None:
    """So each refusal above is for its own change; and an audit may pass the ignored option on."""
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}
    assert client.post("fine_tuning/jobs", json=body).status_code == 200
    body |= {"freeze_policy": {"freeze": ["weight"], "enforce": False}, "hyperparameters": {"optimizer": SGD}}
    assert client.post("fine_tuning/jobs", json=body).status_code == 200


def test_dropout_in_frozen_modules_is_off_in_new_jobs(client: TestClient, upload: Upload) -> None:
    """The job says so itself, since its absence is what earlier versions wrote, and means that it is on."""
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}
    job = client.post("fine_tuning/jobs", json=body).json()
    assert job["hyperparameters"]["frozen_dropout"] is False
    asked = body | {"hyperparameters": {"frozen_dropout": True}}
    assert client.post("fine_tuning/jobs", json=asked).json()["hyperparameters"]["frozen_dropout"] is True
    refused = body | {"hyperparameters": {"frozen_dropout": True, "prefix_cache": True}}
    answer = client.post("fine_tuning/jobs", json=refused)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "hyperparameters.frozen_dropout")
