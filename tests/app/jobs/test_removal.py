"""DELETE of a job: what goes, what stays, and when it is refused."""

import hashlib
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.db import Base, Database
from app.evidence.tables import Evidence
from app.files.tables import File
from app.http.dependencies import Backends
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.models.tables import Model
from tests.app.conftest import AFFINE, upload_to
from tests.app.jobs.jobs import claim, finish, new_job

LINE = b'{"x": [1.0, 2.0], "y": 1.0}\n'


def stored(backends: Backends, folder: Path, content: bytes) -> Any:
    path = folder / "content"
    path.write_bytes(content)
    return backends.storage.put(path)


def a_model(backends: Backends, folder: Path, job_id: str, *, kind: str) -> Model:
    """One of its own file."""
    blob = stored(backends, folder, f"weights of {kind} of {job_id}".encode())
    model = Model(id=f"ft:affine:{kind}:{job_id}", project="default", owned_by="default", kind=kind, status="ready")
    model.spec, model.job_id, model.tensors = AFFINE, job_id, []
    model.files = [{"name": "model.safetensors", "size": blob.size, "sha256": blob.sha256, "blob": blob.key}]
    return model


@pytest.fixture
def backends(application: FastAPI) -> Backends:
    return cast(Backends, application.state.backends)


@pytest.fixture
def ended(backends: Backends, api: TestClient, tmp_path: Path) -> Job:
    """A job that left one of everything."""
    db = backends.database
    job, _ = lifecycle.submit(
        db, new_job(training_file=upload_to(cast(Any, api))(LINE), tags=["tagged"], meta={"team": "a"})
    )
    lease = claim(db)
    checkpoint = NewCheckpoint(1, {"train_loss": 1.0}, model=a_model(backends, tmp_path, job.id, kind="checkpoint"))
    updates = AttemptUpdates(events=[NewEvent("one")], metrics=[(1, "train", {"loss": 1.0})], checkpoints=[checkpoint])
    lifecycle.beat(db, lease, updates)

    curves = stored(backends, tmp_path, b"step,loss\n1,1.0\n")
    file = File(id="file-curves", project="default", filename="curves.csv", purpose="fine-tune-results")
    file.bytes, file.sha256, file.blob, file.status = curves.size, curves.sha256, curves.key, "processed"
    evidence = Evidence(job_id=job.id, attempt=1, verdict="verified", frozen_tensors=1, frozen_bytes=8)
    evidence.violations, evidence.checks, evidence.envelope = [], {}, b'{"payload":"e30="}'
    model = a_model(backends, tmp_path, job.id, kind="fine_tuned")
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, model=model, files=[file]))
    return job


def rows(db: Database) -> dict[str, int]:
    """How many rows there are of each table that has any."""
    with db.read() as session:
        counted = {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }
    return {name: count for name, count in counted.items() if count}


def test_nothing_stays_but_a_record(api: TestClient, backends: Backends, ended: Job) -> None:
    """Rows, models, blobs: gone, except for the file that it was trained on."""
    blobs = {blob.key for blob in backends.storage.blobs()}
    answer = api.delete(f"fine_tuning/jobs/{ended.id}")
    assert answer.json() == {"id": ended.id, "object": "fine_tuning.job", "deleted": True}

    left = rows(backends.database)
    assert {name: left[name] for name in left if name.startswith(("job", "evidence", "models"))} == {}
    assert (left["files"], left["deleted_jobs"]) == (1, 1)
    gone = blobs - {blob.key for blob in backends.storage.blobs()} | backends.storage.deletions_waiting()
    assert len(gone) == 3
    assert api.get(f"files/{ended.training_file}/content").content == LINE


@pytest.mark.parametrize("path", ["", "/events", "/evidence", "/attestation", "/checkpoints", "/metrics", "/logs"])
def test_later_requests_hear_what_it_was(api: TestClient, ended: Job, path: str) -> None:
    """410 with the digest of the attestation, so that a copy of it is still known as the one that was served."""
    attestation = api.get(f"fine_tuning/jobs/{ended.id}/attestation").content
    api.delete(f"fine_tuning/jobs/{ended.id}")
    answer = api.get(f"fine_tuning/jobs/{ended.id}{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "job_deleted")
    assert hashlib.sha256(attestation).hexdigest() in answer.json()["error"]["message"]


def test_twice_is_gone(api: TestClient, ended: Job) -> None:
    """And lists can be read on from it, as from every deleted object."""
    api.delete(f"fine_tuning/jobs/{ended.id}")
    assert api.delete(f"fine_tuning/jobs/{ended.id}").status_code == 410
    assert api.get("fine_tuning/jobs", params={"after": ended.id}).json()["data"] == []


def test_a_job_that_has_not_ended_is_refused(api: TestClient, backends: Backends) -> None:
    """Cancelled, it can be deleted."""
    job, _ = lifecycle.submit(backends.database, new_job())
    refused = api.delete(f"fine_tuning/jobs/{job.id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_not_ended")
    assert "cancel it first" in refused.json()["error"]["message"]
    api.post(f"fine_tuning/jobs/{job.id}/cancel")
    assert api.delete(f"fine_tuning/jobs/{job.id}").status_code == 200


def test_a_job_whose_model_is_needed_is_refused(
    api: TestClient, backends: Backends, tmp_path: Path, ended: Job
) -> None:
    """What stands on its checkpoint is named; nothing is deleted meanwhile."""
    checkpoint = f"ft:affine:checkpoint:{ended.id}"
    with backends.database.write() as session:
        later = a_model(backends, tmp_path, "ftjob-later", kind="fine_tuned")
        later.base_id, later.created_at = checkpoint, ended.created_at
        session.add(later)
    before = rows(backends.database)
    refused = api.delete(f"fine_tuning/jobs/{ended.id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_in_use")
    assert [user["message"] for user in refused.json()["error"]["errors"]] == ["ft:affine:fine_tuned:ftjob-later"]
    assert rows(backends.database) == before


def test_shared_bytes_stay(api: TestClient, backends: Backends, tmp_path: Path, ended: Job) -> None:
    """A blob that another row has, too, is not deleted."""
    other, _ = lifecycle.submit(backends.database, new_job())
    lease = claim(backends.database)
    model = a_model(backends, tmp_path, other.id, kind="fine_tuned")
    with backends.database.read() as session:
        model.files = session.get_one(Model, f"ft:affine:fine_tuned:{ended.id}").files
    finish(backends.database, lease, model=model)
    api.delete(f"fine_tuning/jobs/{ended.id}")
    assert api.get(f"models/{model.id}/files/model.safetensors").status_code == 200
