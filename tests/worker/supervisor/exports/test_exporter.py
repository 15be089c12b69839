"""Exports end to end, but for the job: taken, sent by a process of its own, tried again, told in events."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from app.db import Database, now
from app.exports import queue
from app.exports.tables import Export
from app.jobs.queue.tables import Event
from app.storage.blobs import Storage
from tests.app.storage.conftest import s3_server
from tests.conftest import Deployment
from tests.servers import free_port
from tests.tracking import mlflow
from tests.wandb_server import KEY
from tests.wandb_server import serving as wandb_server
from tests.worker.supervisor.exports.results import ATTESTATION, FILES, ended_job, set_secret, settings_of
from worker.supervisor.exports.exporter import Exporter
from worker.supervisor.sources.object_store import store

__all__ = ["s3_server"]


@pytest.fixture
def exporter(deployment: Deployment) -> Iterator[Exporter]:
    made = Exporter(deployment.db, Storage(deployment.settings.storage), settings_of(deployment))
    yield made
    made.close()


def rows(db: Database, job: str) -> list[Export]:
    with db.read() as session:
        return list(queue.of_job(session, job))


def events(db: Database, job: str) -> list[tuple[str, str]]:
    with db.read() as session:
        found = session.scalars(select(Event).where(Event.job_id == job).order_by(Event.seq))
        return [(each.level, each.message) for each in found if "ent to" in each.message]


def make_due(db: Database) -> None:
    with db.write() as session:
        session.execute(update(Export).values(due_at=now(session)))


def test_a_prefix_of_a_store(deployment: Deployment, exporter: Exporter, s3_server: str) -> None:
    """Files and attestation lie there; a bucket that is not there is named, and final."""
    keys = {"access_key_id": "mine", "secret_access_key": "canary", "region": "us-east-1", "endpoint_url": s3_server}
    httpx2.put(f"{s3_server}/results")
    set_secret(deployment, kind="s3", value=keys)
    job = ended_job(deployment, "s3://results/tuned/v1")
    assert exporter.round() == 1
    (row,) = rows(deployment.db, job)
    assert (row.status, row.receipt) == ("delivered", {"url": "s3://results/tuned/v1/", "files": 4}), row.error
    there = {name.rpartition("/")[2]: store(keys).cat_file(name) for name in store(keys).find("results/tuned/v1")}
    assert there == FILES | {"attestation.json": ATTESTATION}
    assert events(deployment.db, job) == [("info", "Sent to s3://results/tuned/v1")]
    assert not list((deployment.settings.work / "exports").glob("*"))

    missing = ended_job(deployment, "s3://no-such-results/x")
    exporter.round()
    (row,) = rows(deployment.db, missing)
    assert row.status == "failed" and row.error is not None and "canary" not in row.error
    assert events(deployment.db, missing)[0][0] == "error"


@pytest.mark.slow  # a real MLflow server starts for it
def test_tracking_server_that_is_down_gets_it_later(deployment: Deployment, exporter: Exporter, tmp_path: Path) -> None:
    """A run with parameters, curves, verdict and attestation, and a version of the model; each once, however often."""
    port = free_port()
    url = f"mlflow+http://127.0.0.1:{port}/team?model=encoder"
    job = ended_job(deployment, url)
    assert exporter.round() == 1
    (row,) = rows(deployment.db, job)
    assert (row.status, row.attempt) == ("pending", 1) and row.error is not None and "does not answer" in row.error
    assert events(deployment.db, job)[0][0] == "warn"

    with mlflow(tmp_path, port=port) as server:
        make_due(deployment.db)
        assert exporter.round() == 1
        (row,) = rows(deployment.db, job)
        assert row.status == "delivered" and row.receipt is not None, row.error
        run = get(server, "runs/get", run_id=row.receipt["run_id"])["run"]
        assert {each["key"]: each["value"] for each in run["data"]["params"]}["optimizer.name"] == "adamw"
        tags = {each["key"]: each["value"] for each in run["data"]["tags"]}
        assert (tags["permafrost.job"], tags["permafrost.verdict"]) == (job, "verified")
        assert run["info"]["status"] == "FINISHED"
        assert curve(server, run, "train/loss") == [(1, 2.0), (2, 1.0)]
        version = get(server, "model-versions/get", name="encoder", version="1")["model_version"]
        assert version["run_id"] == run["info"]["run_id"]
        root = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for name, data in {**FILES, "attestation.json": ATTESTATION}.items():
            got = httpx2.get(f"{server}/api/2.0/mlflow-artifacts/artifacts/{root}/result/{name}")
            assert hashlib.sha256(got.content).digest() == hashlib.sha256(data).digest(), name

        with deployment.db.write() as session:
            queue.add(session, project="default", job_id=job, destination=url, status="pending")
        assert exporter.round() == 1
        again = rows(deployment.db, job)[1]
        assert (again.status, again.receipt) == ("delivered", row.receipt)
        assert curve(server, run, "train/loss") == [(1, 2.0), (2, 1.0)]

        failed = ended_job(deployment, url, status="failed")
        exporter.round()
        (row,) = rows(deployment.db, failed)
        assert row.status == "delivered" and row.receipt is not None and "version" not in row.receipt, row.error
        assert get(server, "runs/get", run_id=row.receipt["run_id"])["run"]["info"]["status"] == "FAILED"


def get(server: str, path: str, **params: str) -> Any:
    return json.loads(httpx2.get(f"{server}/api/2.0/mlflow/{path}", params=params).raise_for_status().text)


def curve(server: str, run: Any, metric: str) -> list[tuple[int, float]]:
    found = get(server, "metrics/get-history", run_id=run["info"]["run_id"], metric_key=metric)["metrics"]
    return sorted((int(each["step"]), each["value"]) for each in found)


@pytest.mark.parametrize("place", ["wandb+http://127.0.0.1:{port}/acme/encoders", "wandb+offline://acme/encoders"])
def test_runs_of_weights_and_biases(deployment: Deployment, exporter: Exporter, place: str) -> None:
    """By the process of its own: at a server with the project's key, or in the project's folder without one."""
    with wandb_server() as server:
        set_secret(deployment, kind="wandb", value=KEY)
        job = ended_job(deployment, place.format(port=server.url.rpartition(":")[2]))
        assert exporter.round() == 1
        (row,) = rows(deployment.db, job)
        assert row.status == "delivered" and row.receipt is not None, row.error
        if "offline" in place:
            folder = exporter._settings.offline_runs / "default" / "wandb" / row.receipt["folder"]
            assert list(folder.glob("*.wandb")) and server.asked == []
        else:
            assert server.runs[f"acme/encoders/{job}"].exit_code == 0


@pytest.mark.parametrize(
    "url", ["mlflow+http://localhost:1/a", "trackio+http://localhost:1/a", "wandb://localhost:1/a/b"]
)
def test_inner_addresses_are_refused(deployment: Deployment, url: str) -> None:
    """Whatever the row says: the address is looked at when connecting."""
    job = ended_job(deployment, url)
    closed = Exporter(deployment.db, Storage(deployment.settings.storage), deployment.settings)
    assert closed.round() == 1
    (row,) = rows(deployment.db, job)
    assert row.status == "failed" and row.error is not None and "PERMAFROST_FETCH_ALLOW" in row.error


def test_an_exporter_that_is_closed_leaves_it_to_others(deployment: Deployment, exporter: Exporter) -> None:
    """Also in the middle of sending: nothing is noted, and its lease runs out."""
    job = ended_job(deployment, "mlflow+http://127.0.0.1:9/team")
    due = queue.take_due(deployment.db)
    assert due is not None
    exporter._closed.set()
    exporter._do(due)
    (row,) = rows(deployment.db, job)
    assert (row.status, row.log) == ("pending", [])


def test_a_worker_without_room_tries_again(
    deployment: Deployment, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is an attempt like any other, and does not come back each time the lease is over."""
    job = ended_job(deployment, "s3://results/x")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.supervisor.exports.content.ExportContent.write", full)
    assert exporter.round() == 1
    (row,) = rows(deployment.db, job)
    assert (row.status, row.lease_until) == ("pending", None) and "No space left" in str(row.error)


def test_it_runs_beside_the_worker(deployment: Deployment, exporter: Exporter) -> None:
    """What becomes due is taken without anybody's asking."""
    arrived = threading.Event()
    exporter._do = lambda due: arrived.set()  # type: ignore[method-assign]
    exporter.start()
    ended_job(deployment, "s3://results/x")
    assert arrived.wait(60)
