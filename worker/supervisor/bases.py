"""Base models: a folder becomes blobs and a row once, and every later job reads those."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select, update

from app.db import Database, now
from app.errors import ModelError
from app.evidence.format.digest import FileChanged, FileReading, read_file, reread
from app.evidence.format.log_proof import base_entry
from app.evidence.format.modules import files_in, within
from app.evidence.format.quantised import quantisation_of
from app.evidence.format.templates import templates_in
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.format.tree import root
from app.evidence.transparency.journal import record
from app.jobs.queue.attempt import Lease
from app.jobs.queue.tables import Job
from app.jsontypes import JsonDict
from app.models.papers import PAPER, is_paper
from app.models.tables import Model
from app.specs.models import ModelSpec, TransformersSpec
from app.storage.blobs import Storage

#: Suffixes of files that are read from a model folder. Pickles and code are left alone.
SUFFIXES: Final = (".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken")
#: The most bytes of a README or licence file that is kept beside the model; a larger one is left alone.
MAX_PAPER: Final = 4 << 20
#: The largest configuration of a model that a trainer reads.
MAX_CONFIG: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class StoredFolder:
    """A folder's files as blobs, and the tensors in them."""

    files: list[JsonDict]
    tensors: list[JsonDict]
    root: str


def register(
    db: Database,
    storage: Storage,
    folder: Path,
    *,
    model_id: str,
    spec: ModelSpec | None = None,
    project: str | None = None,
) -> Model:
    """Register a folder as a base model of a project, or of every project. Its tensors are described later."""
    model = Model(id=model_id, project=project, owned_by=project or "permafrost", kind="base", status="pending")
    model.spec = (spec or TransformersSpec(path=folder.name)).to_json()
    stored = ingest(folder, storage)
    model.stored_bytes = sum(each["size"] for each in stored.files) if project else 0
    return publish(db, stored, model)


def ingest(folder: Path, storage: Storage) -> StoredFolder:
    """Store the model files of `folder`. ModelError where weights are missing, damaged or have a tensor twice."""
    try:
        return _ingest(folder, storage)
    except FileChanged as error:
        raise ModelError(f"{folder.name}: {error}", param="model") from error


@reread
def _ingest(folder: Path, storage: Storage) -> StoredFolder:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        message = (
            f"{folder.name}: no .safetensors file, and other formats of weights are not read; load the model with "
            "transformers, which reads them, and save it again: save_pretrained writes that format"
        )
        raise ModelError(message, param="model")
    names += [*files_in(folder), *templates_in(folder)]
    readings = {name: within(_read(folder / name), name) for name in names if name.endswith(".safetensors")}
    _refuse_variants(folder, readings)
    try:
        digest = root(tensor for reading in readings.values() for tensor in reading.tensors)
    except ValueError as error:
        raise ModelError(f"{folder.name}: {error}", param="model") from error
    files: list[JsonDict] = []
    tensors: list[JsonDict] = []
    for name in names:
        blob = storage.put(folder / name)
        reading = readings.get(name)
        if reading is not None and reading.sha256 != blob.sha256:
            raise FileChanged(f"{name} changed while it was read")
        files.append({"name": name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key})
        tensors += tensor_rows(reading, blob.key) if reading is not None else []
    files += _papers(folder, storage)
    return StoredFolder(files, tensors, digest)


def _papers(folder: Path, storage: Storage) -> Iterable[JsonDict]:
    """README and licence, kept for readers. They decide nothing about the model, so no statement is about them."""
    for path in sorted(folder.iterdir()):
        if is_paper(path.name) and path.suffix not in SUFFIXES and path.is_file() and path.stat().st_size <= MAX_PAPER:
            blob = storage.put(path)
            yield {"name": path.name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key, PAPER: True}


def _refuse_variants(folder: Path, readings: Mapping[str, FileReading]) -> None:
    """Raises ModelError for a tensor in two files, such as `model.safetensors` and `model.fp16.safetensors`."""
    holders: dict[str, str] = {}
    for name, reading in readings.items():
        for tensor in reading.tensors:
            first = holders.setdefault(tensor.name, name)
            if first != name:
                message = (
                    f"{folder.name}: {first} and {name} both hold {tensor.name!r}, as variants of one model's weights "
                    "do; leave one of them in the folder"
                )
                raise ModelError(message, param="model", code="two_models")


def _read(path: Path) -> FileReading:
    try:
        return read_file(path)
    except (OSError, TensorFileError) as error:
        raise ModelError(f"{path.parent.name}: {path.name} cannot be read: {error}", param="model") from error


def tensor_rows(reading: FileReading, blob: str) -> Iterable[JsonDict]:
    """The tensors of a stored file, as a model's row lists them."""
    for tensor in reading.tensors:
        yield {
            "file": reading.name,
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "nbytes": tensor.nbytes,
            "sha256": tensor.sha256,
            "blob": blob,
            "offset": tensor.offset,
        }


def publish(db: Database, stored: StoredFolder, model: Model) -> Model:
    """Store the row with these files, unless another worker was first with the same id: then that row is returned."""
    model.files, model.tensors, model.root = stored.files, stored.tensors, stored.root
    with db.write() as session:
        registered = session.scalar(select(Model).where(Model.id == model.id).with_for_update())
        if model.kind == "base" and (registered is None or registered.status == "pending"):
            record(session, base_entry(stored.root, name=model.id))
        if registered is None:
            model.created_at = now(session)
            session.add(model)
            return model
        if registered.status == "pending":
            registered.files, registered.tensors, registered.root = stored.files, stored.tensors, stored.root
            registered.manifest, registered.status, registered.error = model.manifest, model.status, model.error
        # Deferred columns are read while there is a session to read them with.
        return loaded(registered)


def refuse_links(folder: Path) -> None:
    """ModelError for links in a folder that a trainer wrote: the supervisor can read more than the trainer may."""
    for path in folder.iterdir():
        if path.is_symlink():
            raise ModelError(f"{path.name} is a link, and a new base holds plain files only", param="model")


def remember(db: Database, lease: Lease, model_id: str, spec: ModelSpec) -> None:
    """Record which model the job started from, which protects it from deletion; `spec` has its commit."""
    with db.write() as session:
        mine = update(Job).where(Job.id == lease.job_id, Job.attempt == lease.attempt)
        session.execute(mine.values(base_model=model_id, model_spec=spec.to_json()))


def makes_weights(spec: ModelSpec, folder: Path) -> bool:
    """Whether loading makes other weights of the base's: quantises plain ones, or decodes codes.

    A configuration that cannot be read is left to the trainer, which refuses it.
    """
    if not isinstance(spec, TransformersSpec) or spec.adapter is None:
        return False
    if spec.quantize is not None:
        return True
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_CONFIG else None
        quantisation = quantisation_of(config) if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError):
        return False
    return quantisation is not None and quantisation.decoded


def find(db: Database, model_id: str) -> Model | None:
    with db.read() as session:
        model = session.get(Model, model_id)
        return loaded(model) if model is not None else None


def loaded(model: Model) -> Model:
    """The row with its deferred columns, which cannot be read once the session is closed."""
    _ = model.tensors, model.manifest
    return model


def ready(db: Database, model_id: str, manifest: list[Any] | JsonDict) -> None:
    """Only a pending model becomes ready: two workers may have read it at the same time."""
    with db.write() as session:
        pending = update(Model).where(Model.id == model_id, Model.status == "pending")
        session.execute(pending.values(status="ready", manifest=manifest, error=None))


def fail(db: Database, model_id: str, reason: str) -> None:
    with db.write() as session:
        pending = update(Model).where(Model.id == model_id, Model.status == "pending")
        session.execute(pending.values(status="failed", error=reason))
