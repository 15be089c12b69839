"""Exports over HTTP: as an option of a job, and afterwards."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from tests.app.conftest import AFFINE, Upload, rows

STORE, TRACKER = "s3://bucket/prefix", "mlflow://track.example.org/a?model=m"


@pytest.fixture
def body(upload: Upload) -> dict[str, object]:
    return {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}


def test_destinations_of_a_job_wait_for_its_end(client: TestClient, embedded: FastAPI, body: dict[str, object]):
    """Each once; then a worker may take them. Another one is sent once, however often it is asked for."""
    job = client.post("fine_tuning/jobs", json=body | {"destinations": [STORE, TRACKER, STORE]}).json()["id"]
    path = f"fine_tuning/jobs/{job}/exports"
    listed = client.get(path).json()["data"]
    assert [(each["destination"], each["status"]) for each in listed] == [(STORE, "waiting"), (TRACKER, "waiting")]
    again = client.post(path, json={"destination": STORE}).json()
    assert again["id"] == listed[0]["id"] and again["next_attempt_at"] is None
    db = embedded.state.backends.database
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    lifecycle.finish(db, lease, Outcome("succeeded"))
    assert {each["status"] for each in client.get(path).json()["data"]} == {"pending"}
    later = client.post(path, json={"destination": "hf://acme/tuned"}).json()
    assert (later["status"], later["attempts"]) == ("pending", [])


def test_destinations_that_are_refused(client: TestClient, body: dict[str, object]):
    """With the path of the one that is wrong; in a sweep, which sends nothing; of a job that has no result."""
    wrong = client.post("fine_tuning/jobs", json=body | {"destinations": [STORE, "ftp://x"]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "destinations[1]")
    inner = client.post("fine_tuning/jobs", json=body | {"destinations": ["mlflow://127.0.0.1/a"], "dry_run": True})
    assert "PERMAFROST_FETCH_ALLOW" in inner.json()["error"]["message"]
    sweep = client.post("fine_tuning/sweeps", json={"job": body | {"destinations": [STORE]}, "grid": {"seed": [1]}})
    assert (sweep.status_code, sweep.json()["error"]["code"]) == (400, "not_in_a_sweep")
    job = client.post("fine_tuning/jobs", json=body).json()["id"]
    client.post(f"fine_tuning/jobs/{job}/cancel")
    late = client.post(f"fine_tuning/jobs/{job}/exports", json={"destination": STORE})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "no_result")
    unknown = client.post("fine_tuning/jobs/ftjob-none/exports", json={"destination": STORE})
    assert unknown.status_code == 404
