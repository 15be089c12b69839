"""Makes, fills and removes the folder of one attempt: base files, data and order go in, results come out.

It is `<data_dir>/work/<job>/a<attempt>/`; checkpoints are beside it, where the next attempt finds them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from app.logs.redaction import redacted
from app.models.catalog import layout
from app.models.papers import without_papers
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.protocol import Workspace

LOG_LINES = 20
LOG_BYTES = 16_384


def locate(work: Path, job_id: str, attempt: int) -> Workspace:
    return Workspace(work / job_id / f"a{attempt}")


def create(workspace: Workspace) -> None:
    """Make the folders, empty; what an earlier process left under this name is removed."""
    shutil.rmtree(workspace.root, ignore_errors=True)
    checkpoints = workspace.root.parent / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    workspace.root.mkdir()
    workspace.checkpoints.symlink_to(checkpoints)
    workspace.create()


def stage_base(workspace: Workspace, model: Model, storage: Storage) -> None:
    """Put the model's files in place: links to stored blobs; files that are composed on download are written out."""
    for file in without_papers(model.files):
        target = workspace.base / file["name"]
        target.parent.mkdir(exist_ok=True)
        if file["blob"] is not None:
            storage.fetch(file["blob"], target)
            continue
        with target.open("wb") as composed:
            for chunk in layout(model, file["name"]).stream(storage.open):
                composed.write(chunk)


def stage_adapter(workspace: Workspace, model: Model, storage: Storage) -> None:
    """Write out the weights of an adapter that is trained on."""
    workspace.adapter.parent.mkdir(exist_ok=True)
    with workspace.adapter.open("wb") as composed:
        for chunk in layout(model, workspace.adapter.name).stream(storage.open):
            composed.write(chunk)


def stage_data(workspace: Workspace, name: str, *, filename: str, blob: str, storage: Storage) -> str:
    """Put an uploaded file into `data/` as `name` with its own suffix; returns its path within the workspace."""
    # Of the name that a client gave its file, only the suffix gets into a path.
    suffix = Path(filename).suffix.lower()
    target = workspace.data / (name + (suffix if suffix[1:].isalnum() else ""))
    storage.fetch(blob, target)
    return str(target.relative_to(workspace.root))


def stage_weights(workspace: Workspace, blob: str, storage: Storage) -> None:
    """An uploaded safetensors file as the only file of a base."""
    storage.fetch(blob, workspace.base / "model.safetensors")


def log_tail(workspace: Workspace, aliases: Mapping[str, str]) -> list[str]:
    """The last lines that the trainer printed, redacted (app.logs.redaction), for the job's error."""
    try:
        with workspace.log.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - LOG_BYTES))
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return redacted(text.replace("\0", "\ufffd"), aliases).splitlines()[-LOG_LINES:]


def discard(workspace: Workspace, *, ended: bool) -> None:
    """Remove one attempt's folder; the checkpoints beside it stay for the next one, unless the job has ended."""
    shutil.rmtree(workspace.root.parent if ended else workspace.root, ignore_errors=True)
