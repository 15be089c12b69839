"""Checkpoints that travel: the state of a job on several machines is in the storage, so that any gang can go on."""

import shutil
from pathlib import Path
from typing import Final

from sqlalchemy import select

from app.db import Database
from app.evidence.format.digest import sha256_file
from app.files.usage import blob_in_use
from app.jobs.queue.tables import Checkpoint
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.protocol import Workspace
from worker.supervisor.artifacts import ResultError, read_json, regular
from worker.supervisor.gang.plan import TravellingCheckpoint

CHUNK: Final = 1 << 20
MANIFEST: Final = "manifest.json"


def store(storage: Storage, folder: Path, blobs: set[str]) -> list[JsonDict]:
    """All files of a checkpoint as blobs, for the column of its model; adds each to `blobs` as it is stored.

    FileNotFoundError where the run has removed the checkpoint meanwhile: half of one cannot be used. ResultError where
    what the trainer wrote is not a checkpoint.
    """
    try:
        return [_store(storage, folder / name, blobs) for name in (*_names(folder), MANIFEST)]
    except ResultError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from error
        raise


def _store(storage: Storage, path: Path, blobs: set[str]) -> JsonDict:
    # Opened once, and never through a link: the trainer could put one there between a look and a reading.
    with regular(path) as source, storage.writer() as writer:
        while chunk := source.read(CHUNK):
            writer.write(chunk)
    blobs.add(writer.blob.key)
    return {"name": path.name, "size": writer.blob.size, "sha256": writer.blob.sha256, "blob": writer.blob.key}


def _names(folder: Path) -> list[str]:
    """The files that the manifest names, each a plain name of this folder."""
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or any(Path(name).name != name or name.startswith(".") for name in files):
        raise ResultError(f"{folder.name}/{MANIFEST} names no files of its own folder")
    return sorted(files)


def newest(db: Database, job_id: str) -> TravellingCheckpoint | None:
    """The newest checkpoint of the job whose state is in the storage."""
    with db.read() as session:
        of_job = select(Checkpoint.step, Model.state).join(Model, Model.id == Checkpoint.model)
        of_job = of_job.where(Checkpoint.job_id == job_id, Model.status == "ready", Model.kind == "checkpoint")
        for step, state in session.execute(of_job.order_by(Checkpoint.step.desc())):
            if state:
                return TravellingCheckpoint(step, tuple((one["name"], one["blob"], one["sha256"]) for one in state))
    return None


def bring(storage: Storage, workspace: Workspace, checkpoint: TravellingCheckpoint | None) -> None:
    """Has the workspace hold this checkpoint and none later: all machines of a gang go on from the same step.

    A copy that is there already, of this worker's own attempt before, is kept if its files are the same.
    """
    folder = workspace.checkpoints.resolve()
    name = f"step-{checkpoint.step:08d}" if checkpoint else ""
    for path in folder.glob("step-*"):
        if path.name > name or (path.name == name and checkpoint and not _same(path, checkpoint)):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
    if checkpoint is None or (folder / name).exists():
        return

    incoming = folder / f".{name}.brought.tmp"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    for file, blob, _ in checkpoint.files:
        with storage.open(blob) as source, (incoming / file).open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
    incoming.rename(folder / name)


def forget(db: Database, storage: Storage, job_id: str) -> None:
    """Removes the state of a job that has ended; its checkpoints stay as models."""
    with db.write() as session:
        models = session.scalars(select(Model).where(Model.job_id == job_id, Model.kind == "checkpoint")).all()
        blobs = {file["blob"] for model in models for file in model.state or ()}
        for model in models:
            model.state = None
    with db.read() as session:
        unused = [blob for blob in sorted(blobs) if not blob_in_use(session, blob)]
    for blob in unused:
        storage.delete(blob)


def _same(path: Path, checkpoint: TravellingCheckpoint) -> bool:
    return all((path / name).is_file() and sha256_file(path / name) == sha256 for name, _, sha256 in checkpoint.files)
