"""One door for the jobs of the API and of the form."""

import json

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.submit import JobServices, submit
from tests.app.conftest import AFFINE, Upload, rows


def test_a_key_makes_one_job(client: TestClient, embedded: FastAPI, upload: Upload) -> None:
    """The second time it is the first one's, whoever sends it."""
    backends = embedded.state.backends
    services = JobServices(backends.database, backends.storage, backends.settings, backends.notifier)
    spec = JobCreate.model_validate({"model": AFFINE, "training_file": upload(rows())})
    first, repeated = submit(services, "default", spec, key="k")
    assert not repeated and first.status == "queued"
    again, repeated = submit(services, "default", spec, key="k")
    assert repeated and again.id == first.id
    assert submit(services, "default", spec, key=None)[0].id != first.id


def test_the_log_says_which_request_made_which_job(
    client: TestClient, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with both ids; the worker's lines have the job's."""
    body = {"model": AFFINE, "training_file": upload(rows())}
    job = client.post("fine_tuning/jobs", json=body, headers={"x-request-id": "my-request-1"}).json()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = (line for line in lines if line["event"] == "job submitted")
    assert (line["request_id"], line["job"], line["project"]) == ("my-request-1", job["id"], "default")
