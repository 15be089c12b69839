"""Publishes a job's checkpoints as models while it trains: each can be downloaded and trained on.

A thread does it, so that reports are read meanwhile. The files are read again and their digests computed, as at the
end of a job.
"""

import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from app.db import Database
from app.errors import PermafrostError
from app.evidence.format.compose import ComposeError, Slice
from app.evidence.format.digest import FileChanged, FileReading, read_file, reread, sha256_file
from app.evidence.format.recipe import SavedState
from app.evidence.format.statement import FileRef
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.format.tree import root
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, LeaseLost
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.protocol import Report, Workspace
from worker.supervisor import saved_states
from worker.supervisor.artifacts import WEIGHT_FILES, ResultError, discard, publish_files, read_json
from worker.supervisor.gang import travelling
from worker.supervisor.lease import AWAY, LeaseKeeper
from worker.supervisor.result_models import composed_model
from worker.supervisor.weight_files import weight_files

log = structlog.get_logger(__name__)

WEIGHTS: Final = "model.safetensors"
STORED: Final = "stored.safetensors"
#: The trainer's own state beside the weights, from which a run goes on.
STATE_FILES: Final = (
    "manifest.json",
    "masters.safetensors",
    "optimizer.safetensors",
    "random.safetensors",
    "state.json",
    STORED,
)


@dataclass(frozen=True, slots=True)
class TensorBlob:
    """A safetensors file of the trainer, stored as a blob, and the reading of its tensors."""

    blob: str
    size: int
    reading: FileReading

    def slice(self, name: str, as_name: str) -> Slice | None:
        each = next((one for one in self.reading.tensors if one.name == name), None)
        if each is None:
            return None
        return Slice(as_name, each.dtype, each.shape, self.blob, each.offset, each.nbytes, each.sha256)


class Publisher:
    """Takes reports of checkpoints, oldest first. A checkpoint that the run has removed since is skipped."""

    def __init__(
        self, db: Database, storage: Storage, job: Job, base: Model, workspace: Workspace, keeper: LeaseKeeper
    ) -> None:
        self._db = db
        self._storage = storage
        self._job = job
        self._base = base
        self._workspace = workspace
        self._keeper = keeper
        self._waiting: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._form: CheckpointForm | None = None
        self._states = saved_states.load(workspace)
        target = partial(copy_context().run, self._serve)  # its log lines name the attempt, too
        self._thread = threading.Thread(target=target, name=f"checkpoints-{job.id}", daemon=True)

    def offer(self, report: Report) -> None:
        self._waiting.put(report)

    @property
    def states(self) -> tuple[SavedState, ...]:
        """The checkpoints that were read, by this attempt and those before it, by step, for the recipe."""
        return tuple(self._states[step] for step in sorted(self._states))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        closing = False
        while not closing:
            reports = [self._waiting.get()]
            while not self._waiting.empty():
                reports.append(self._waiting.get())
            closing = reports[-1] is None
            named = [report for report in reports if report is not None]
            if named and not self._keeper.expired:
                self._take(named)

    def _take(self, reports: list[Report]) -> None:
        """Publish those checkpoints that the run still keeps, and delete the blobs of those that it has dropped."""
        kept = {int(step) for step in reports[-1].get("kept") or [reports[-1]["step"]]}
        try:
            for report in reports:
                if int(report["step"]) in kept:
                    self._publish(int(report["step"]), dict(report.get("metrics") or {}))
            for blob in lifecycle.drop_checkpoints(self._db, self._keeper.lease, kept=kept):
                self._storage.delete(blob)
        except LeaseLost:
            return
        except AWAY as error:
            log.warning("the database is away; old checkpoints stay for now", job=self._job.id, error=str(error))
        except Exception as error:  # an error here must not end the run
            log.exception("a checkpoint was not published", job=self._job.id)
            self._warn(f"a checkpoint could not be published as a model: {type(error).__name__}")

    def _publish(self, step: int, metrics: JsonDict) -> None:
        stored: set[str] = set()
        model = self._make(step, stored)
        if model is None:
            self._discard(stored)
            return

        self._keeper.post(AttemptUpdates(checkpoints=[NewCheckpoint(step, metrics, model)]))
        try:
            self._keeper.flush()
        except LeaseLost:
            self._discard(stored)
            raise
        self._discard(stored - model.blobs)

    def _make(self, step: int, stored: set[str]) -> Model | None:
        """The model of a checkpoint, or None when it cannot be made. Adds the blobs that it stores to `stored`."""
        folder = self._workspace.checkpoints / f"step-{step:08d}"
        try:
            self._form = self._form or CheckpointForm.read(self._workspace, self._storage)
            model = self._form.model(self._job, self._base, folder, step, stored)
            self._states[step] = saved_state(folder, step, self._form.moved)
            if self._job.machines > 1:
                self._send(model, folder, stored)
            with suppress(OSError):  # a later attempt's recipe lists fewer then
                saved_states.store(self._workspace, self._states.values())
            return model
        except FileNotFoundError:
            return None  # the run has removed it since
        except (PermafrostError, ComposeError, TensorFileError, OSError) as error:
            self._warn(f"the checkpoint of step {step} cannot be published as a model: {error}")
            return None

    def _send(self, model: Model, folder: Path, stored: set[str]) -> None:
        """Store the whole state, so that any gang can go on from it."""
        model.state = travelling.store(self._storage, folder, stored)
        model.stored_bytes += sum(file["size"] for file in model.state if file["name"] not in (WEIGHTS, STORED))

    def _discard(self, blobs: set[str]) -> None:
        """Delete blobs of a checkpoint that no row refers to. The doctor finds them when the database is away."""
        with suppress(*AWAY):
            discard(self._db, self._storage, blobs)

    def _warn(self, message: str) -> None:
        self._keeper.post(AttemptUpdates(events=[NewEvent(message, level="warn")]))


@dataclass(slots=True)
class CheckpointForm:
    """`form.json`: where each tensor of a saved model has its bytes. One for all checkpoints of an attempt."""

    storage: Storage
    tensors: list[Mapping[str, Any]]
    weights: str  # the name of the composed file
    manifest: list[Any]
    workspace: Workspace
    #: Stored with the first checkpoint that needs them: a new head that is trained never needs its initial values.
    initial: TensorBlob | None = None
    files: list[JsonDict] | None = None
    moved: FileReading | None = None  # the weights of the last checkpoint that was read

    @classmethod
    def read(cls, workspace: Workspace, storage: Storage) -> "CheckpointForm":
        document = read_json(workspace.form)
        try:
            keys = ("name", "live", "part", "base_name")
            tensors: list[Mapping[str, Any]] = [{key: each[key] for key in keys} for each in document["tensors"]]
            kind, manifest = str(document["kind"]), list(document["manifest"])
            weights = WEIGHT_FILES[kind]
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{workspace.form.name} cannot be read: {error!r}") from error
        return cls(storage, tensors, weights, manifest, workspace)

    def model(self, job: Job, base: Model, folder: Path, step: int, stored: set[str]) -> Model:
        """The checkpoint in `folder` as a model of the job's project. Adds the blobs of its weights to `stored`."""
        if folder.is_symlink():
            raise ResultError(f"{folder.name} is a link")
        moved = _store(self.storage, folder / WEIGHTS)
        stored.add(moved.blob)
        self.moved = moved.reading
        pieces = _store(self.storage, folder / STORED) if (folder / STORED).is_file() else None
        own_blobs = {file.blob for file in (moved, pieces) if file is not None}
        stored |= own_blobs
        if self.files is None:
            self.files = publish_files(self.workspace.form_files, self.storage)

        slices = [self._slice(tensor, moved, pieces, base) for tensor in self.tensors]
        weights = weight_files(
            slices, {"format": "pt"}, main=self.weights, folder=self.workspace.form_files, storage=self.storage
        )
        model = composed_model(job, base, weights, self.files, self.manifest)
        model.id, model.kind = f"{model.id}:ckpt-step-{step}", "checkpoint"
        model.tensors = [tensor | ({"own": True} if tensor["blob"] in own_blobs else {}) for tensor in model.tensors]
        model.root = root(slices)
        model.stored_bytes = sum(file.size for file in (moved, pieces) if file is not None)
        return model

    def _slice(self, tensor: Mapping[str, Any], moved: TensorBlob, pieces: TensorBlob | None, base: Model) -> Slice:
        name, live, part, base_name = tensor["name"], tensor["live"], tensor["part"], tensor["base_name"]
        piece = (pieces.slice(name, name) if pieces else None) if part else moved.slice(live, name)
        stored = next((one for one in base.tensors if one["name"] == base_name), None)
        if piece is None and stored is not None:
            shape = tuple(stored["shape"])
            nbytes, sha256 = stored["nbytes"], stored["sha256"]
            piece = Slice(name, stored["dtype"], shape, stored["blob"], stored["offset"], nbytes, sha256)
        if piece is None:
            piece = self._initial_slice(name)
        if piece is None:
            raise ResultError(f"tensor {name!r} is in neither the checkpoint nor the base")
        return piece

    def _initial_slice(self, name: str) -> Slice | None:
        """A tensor that is neither trained nor in the base, such as a new head that is frozen."""
        if self.initial is None and self.workspace.initial.is_file():
            self.initial = _store(self.storage, self.workspace.initial)
        return self.initial.slice(name, name) if self.initial is not None else None


def saved_state(folder: Path, step: int, weights: FileReading | None) -> SavedState:
    """A checkpoint's digests: the root over its weights, which have been read, and of each file of its state.

    FileNotFoundError where the run has removed it since, TensorFileError for a link.
    """
    if weights is None:
        raise FileNotFoundError(folder)
    files = [FileRef(WEIGHTS, weights.size, weights.sha256)]
    for name in STATE_FILES:
        path = folder / name
        if path.is_symlink() or path.exists():
            files.append(FileRef(name, path.lstat().st_size, sha256_file(path, follow_symlinks=False)))
    return SavedState(step=step, root=root(weights.tensors), files=tuple(files))


@reread
def _store(storage: Storage, path: Path) -> TensorBlob:
    """Store a file of the trainer as a blob. FileNotFoundError where the run has removed it."""
    reading = read_file(path, follow_symlinks=False)
    blob = storage.put(path)
    if blob.sha256 != reading.sha256:
        raise FileChanged(f"{path.name} changed while it was read")
    return TensorBlob(blob.key, blob.size, reading)
