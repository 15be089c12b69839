"""A job's result on its way to a tracking server, through the whole service: nothing of the job waits for it."""

import json
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Service
from tests.patience import PATIENCE
from tests.servers import free_port
from tests.tracking import mlflow

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}


@pytest.mark.slow
def test_a_server_that_is_away_delays_nothing(service: Service, tmp_path: Path) -> None:
    """The job ends while nobody listens there; once somebody does, the result arrives, with its attestation."""
    port = free_port()
    lines = b"".join(json.dumps({"x": [n, n % 3], "y": n}).encode() + b"\n" for n in range(16))
    body = {"model": AFFINE, "training_file": service.upload(lines, "a.jsonl"), "freeze_policy": {"freeze": ["weight"]}}
    url = f"mlflow+http://127.0.0.1:{port}/end-to-end?model=affine"
    job = service.ended(service.post("fine_tuning/jobs", body | {"destinations": [url]})["id"])
    assert job["status"] == "succeeded", job["error"]
    path = f"fine_tuning/jobs/{job['id']}/exports"
    with mlflow(tmp_path, port=port):
        deadline = time.monotonic() + PATIENCE
        while (export := service.get(path)["data"][0])["status"] == "pending":
            assert time.monotonic() < deadline, export
            time.sleep(0.1)
    assert export["status"] == "delivered" and export["receipt"]["version"] == "1", export
    events = [event["message"] for event in service.get(f"fine_tuning/jobs/{job['id']}/events")["data"]]
    assert f"Sent to {url}" in events
