"""Checkpoints in the storage, which any machine can go on from."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db import now
from app.jobs.queue.tables import Checkpoint
from app.models.tables import Model
from app.storage.blobs import Storage
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import submit
from worker.protocol import Workspace
from worker.supervisor import attempt_folder
from worker.supervisor.artifacts import ResultError
from worker.supervisor.gang import travelling

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"


@pytest.fixture
def storage(deployment: Deployment) -> Storage:
    return Storage(deployment.settings.storage)


def workspace(folder: Path) -> Workspace:
    made = attempt_folder.locate(folder, "ftjob-1", 1)
    attempt_folder.create(made)
    return made


def saved(made: Workspace, step: int, *, content: str = "weights") -> Path:
    folder = made.checkpoints / f"step-{step:08d}"
    folder.mkdir()
    (folder / "model.safetensors").write_text(f"{content} {step}")
    (folder / MANIFEST).write_text(json.dumps({"step": step, "files": {WEIGHTS: {}}}))
    return folder


def published(deployment: Deployment, storage: Storage, job_id: str, folder: Path, step: int) -> None:
    with deployment.db.write() as session:
        model = Model(id=f"m:{step}", project="default", owned_by="default", kind="checkpoint", status="ready", spec={})
        model.created_at, model.job_id = now(session), job_id
        model.state = travelling.store(storage, folder, set())
        session.add(model)
        row = Checkpoint(id=f"ftckpt-{step}", job_id=job_id, created_at=now(session), step=step, attempt=1, metrics={})
        row.model = model.id
        session.add(row)


def test_a_checkpoint_travels(deployment: Deployment, storage: Storage, tmp_path: Path) -> None:
    """The newest one comes into the folder of another machine, in the place of what an earlier attempt left there."""
    job_id = submit(deployment)
    here, there = workspace(tmp_path / "here"), workspace(tmp_path / "there")
    for step in (5, 10):
        published(deployment, storage, job_id, saved(here, step), step)
    saved(there, 5), saved(there, 10, content="other"), saved(there, 15)

    found = travelling.newest(deployment.db, job_id)
    assert found is not None and (found.step, [name for name, _, _ in found.files]) == (10, [WEIGHTS, MANIFEST])
    travelling.bring(storage, there, found)
    assert sorted(path.name for path in there.checkpoints.iterdir()) == ["step-00000005", "step-00000010"]
    assert (there.checkpoints / "step-00000010" / "model.safetensors").read_text() == "weights 10"
    assert not (there.checkpoints / "step-00000010" / "model.safetensors").is_symlink()


def test_a_copy_that_is_there_is_kept(deployment: Deployment, storage: Storage, tmp_path: Path) -> None:
    """A worker that goes on with its own checkpoint reads nothing from the storage."""
    job_id = submit(deployment)
    made = workspace(tmp_path)
    folder = saved(made, 5)
    published(deployment, storage, job_id, folder, 5)
    inode = (folder / "manifest.json").stat().st_ino
    travelling.bring(storage, made, travelling.newest(deployment.db, job_id))
    assert (folder / "manifest.json").stat().st_ino == inode


def test_without_a_checkpoint_all_begin_at_the_first_step(storage: Storage, tmp_path: Path) -> None:
    """Also a machine that has one that was never published: the others do not have it."""
    made = workspace(tmp_path)
    saved(made, 5)
    travelling.bring(storage, made, None)
    assert list(made.checkpoints.iterdir()) == []


@pytest.mark.parametrize("missing", [WEIGHTS, MANIFEST])
def test_half_a_checkpoint_is_not_stored(storage: Storage, tmp_path: Path, missing: str) -> None:
    """The run removes old ones while they are read; what was stored of it is known, to be deleted."""
    made = workspace(tmp_path)
    folder = saved(made, 5)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError):
        travelling.store(storage, folder, set())


@pytest.mark.parametrize("name", ["../../../keys/signing.key", "/etc/passwd", "..", ".hidden"])
def test_a_manifest_names_files_of_its_own_folder_alone(storage: Storage, tmp_path: Path, name: str) -> None:
    """The trainer writes it, and the trainer is not trusted with what else its worker could read."""
    folder = saved(workspace(tmp_path), 5)
    (folder / MANIFEST).write_text(json.dumps({"files": {name: {}}}))
    with pytest.raises(ResultError):
        travelling.store(storage, folder, set())


def test_a_link_is_no_file_of_a_checkpoint(storage: Storage, tmp_path: Path) -> None:
    """For the same reason."""
    folder = saved(workspace(tmp_path), 5)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResultError):
        travelling.store(storage, folder, set())


def test_the_state_goes_when_the_job_has_ended(deployment: Deployment, storage: Storage, tmp_path: Path) -> None:
    """Its blobs are deleted, now or by maintenance; the checkpoint stays as a model."""
    job_id = submit(deployment)
    published(deployment, storage, job_id, saved(workspace(tmp_path), 5), 5)
    found = travelling.newest(deployment.db, job_id)
    assert found is not None and all(storage.exists(blob) for _, blob, _ in found.files)
    travelling.forget(deployment.db, storage, job_id)
    assert travelling.newest(deployment.db, job_id) is None
    with deployment.db.read() as session:
        (model,) = session.scalars(select(Model).where(Model.job_id == job_id))
        assert (model.status, model.state) == ("ready", None)
    assert not any(storage.exists(blob) for _, blob, _ in found.files)
