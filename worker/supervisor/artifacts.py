"""Reads what a trainer left on disk: links are refused, and every digest is computed again."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.db import Database
from app.errors import PermafrostError
from app.evidence.attest.observations import ObservedTensor, read_observations, rows_needed
from app.evidence.format.compose import Slice
from app.evidence.format.digest import FileChanged, FileReading, TensorReading, read_file, reread
from app.evidence.format.fields import is_hex
from app.evidence.format.modules import MODULES, files_listed, tensor_prefix, within
from app.evidence.format.statement import FileRef
from app.evidence.format.templates import templates_in
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.format.tree import root
from app.files.usage import blob_in_use
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.storage.blobs import Blob, Storage
from worker.protocol import Workspace
from worker.supervisor.weight_files import WeightFile, weight_files

#: Bytes of one of the trainer's JSON files at most.
JSON_BYTES: Final = 256 << 20
#: Suffixes of the files beside the weights that are published.
SUFFIXES: Final = (".json", ".jsonl", ".csv", ".txt", ".model", ".jinja", ".tiktoken", ".md")
EVENTS: Final = "events.out.tfevents.permafrost"
#: Name of the file of weights, by the kind of the result.
WEIGHT_FILES: Final = {"full": "model.safetensors", "adapter": "adapter_model.safetensors"}


class ResultError(PermafrostError):
    """What the trainer left cannot be made a result, though it reported that it was done."""

    code = "invalid_result"


@dataclass(frozen=True, slots=True)
class Result:
    """`result.json`: the tensors of the full result and where each one's bytes are."""

    tensors: list[tuple[str, str, str | None]]  # name, "changed" or "base", name in the base
    metadata: dict[str, str]
    kind: str


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The files that an attempt left, all read again, and the readings of the base that it started from."""

    observed: Mapping[str, Any]  # observations.json, as the trainer wrote it
    seen: list[ObservedTensor]
    result: Result
    base: dict[str, TensorReading]
    changed: FileReading
    blob: Blob  # of the changed tensors
    weights: list[WeightFile]
    others: list[JsonDict]  # the files beside the weights

    @property
    def files(self) -> list[FileRef]:
        return [*(each.ref for each in self.weights), *map(file_ref, self.others)]

    def result_readings(self) -> dict[str, TensorReading]:
        """The result's tensors under the result's names; `_slices` has made sure that each is there."""
        written = {reading.name: reading for reading in self.changed.tensors}
        readings = {
            name: written[name] if source == "changed" else self.base[str(base_name)]
            for name, source, base_name in self.result.tensors
        }
        return {name: reading._replace(name=name) for name, reading in readings.items()}


def read_artifacts(workspace: Workspace, base: Model, storage: Storage) -> Artifacts:
    """Read an attempt's folder, and store the files that a model is made of."""
    observed = read_json(workspace.observations)
    tensors = read_observations(observed)
    result = _read_result(workspace.result)
    base_rows, result_rows = rows_needed(tensors)
    base_tensors = _read_base(workspace, base, base_rows)
    changed, blob = _store_weights(workspace.changed, result_rows, storage)
    others = publish_files(workspace.files, storage)
    weights = weight_files(
        _slices(result, base, changed, blob),
        result.metadata,
        main=WEIGHT_FILES[result.kind],
        folder=workspace.files,
        storage=storage,
    )
    return Artifacts(observed, tensors, result, base_tensors, changed, blob, weights, others)


def read_json(path: Path) -> Any:
    with regular(path) as file:
        raw = file.read(JSON_BYTES + 1)
    if len(raw) > JSON_BYTES:
        raise ResultError(f"{path.name} is larger than {JSON_BYTES} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path.name} is not JSON: {error}") from error


def read_made(workspace: Workspace) -> dict[str, str]:
    """The digests of a process that made weights of the base; ResultError where they are none, or there are none."""
    document = read_json(workspace.made)
    if not isinstance(document, dict) or not document or not all(map(is_hex, document.values())):
        raise ResultError(f"{workspace.made.name} has no digests of weights")
    return {str(name): str(digest) for name, digest in document.items()}


def _read_result(path: Path) -> Result:
    document = read_json(path)
    try:
        tensors = [(str(each["name"]), str(each["from"]), each["base_name"]) for each in document["tensors"]]
        result = Result(tensors, dict(document.get("metadata") or {}), document.get("kind", "full"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{path.name} cannot be read: {type(error).__name__} {error}") from error
    if result.kind not in WEIGHT_FILES:
        raise ResultError(f"{path.name}: kind {result.kind!r} is not one of {', '.join(WEIGHT_FILES)}")
    return result


@reread
def _store_weights(path: Path, rows: Mapping[str, Any], storage: Storage) -> tuple[FileReading, Blob]:
    """The reading of a file, and the same bytes as a blob."""
    reading, blob = _read_weights(path, rows), storage.put(path)
    if blob.sha256 != reading.sha256:
        raise FileChanged(f"{path.name} changed while it was read")
    return reading, blob


def _read_weights(path: Path, rows: Mapping[str, Any]) -> FileReading:
    try:
        known = read_file(path, follow_symlinks=False)
        wanted = {each.name: rows[each.name] for each in known.tensors if each.name in rows}
        return read_file(path, rows=wanted, follow_symlinks=False) if wanted else known
    except (OSError, TensorFileError) as error:
        raise ResultError(f"{path.name} cannot be read: {error}") from error


def _read_base(workspace: Workspace, base: Model, rows: Mapping[str, Any]) -> dict[str, TensorReading]:
    """Every base tensor, read from disk again. ResultError where they are not the registered ones."""
    tensors: dict[str, TensorReading] = {}
    for file in base.files:
        if not file["name"].endswith(".safetensors"):
            continue
        names = {each["name"] for each in base.tensors if each["file"] == file["name"]}
        wanted = {name: rows[name] for name in rows if name in names}
        inside = tensor_prefix(file["name"])
        wanted = {name.removeprefix(inside): spans for name, spans in wanted.items()}
        reading = within(read_file(workspace.base / file["name"], rows=wanted), file["name"])
        tensors |= {each.name: each for each in reading.tensors}
    if root(tensors.values()) != base.root:
        raise ResultError(f"the files of base model {base.id} are not the ones that were registered")
    return tensors


def _slices(result: Result, base: Model, changed: FileReading, blob: Blob) -> list[Slice]:
    """Where the bytes of each result tensor are: in the file that the trainer wrote, or in the base's blobs."""
    written = {tensor.name: tensor for tensor in changed.tensors}
    stored = {tensor["name"]: tensor for tensor in base.tensors}
    slices = []
    for name, source, base_name in result.tensors:
        if source == "changed" and name in written:
            tensor = written[name]
            slices.append(
                Slice(name, tensor.dtype, tensor.shape, blob.key, tensor.offset, tensor.nbytes, tensor.sha256)
            )
        elif source == "base" and base_name in stored:
            row = stored[base_name]
            shape = tuple(row["shape"])
            slices.append(Slice(name, row["dtype"], shape, row["blob"], row["offset"], row["nbytes"], row["sha256"]))
        else:
            raise ResultError(f"result.json takes {name!r} from {source!r} ({base_name!r}), where it is not")
    return slices


def publish_files(folder: Path, storage: Storage) -> list[JsonDict]:
    """Configuration and tokenizer files beside the weights."""
    if folder.parent.is_symlink() or folder.is_symlink():
        raise ResultError("the trainer's output folder is a link")
    published = []
    for name in _names(folder):
        path = folder / name
        if path.suffix not in SUFFIXES and path.name != EVENTS:
            raise ResultError(
                f"{path.name} is not a file of a model; the suffixes that are published are {', '.join(SUFFIXES)}"
            )
        with regular(path):
            blob = storage.put(path)
        published.append({"name": name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key})
    return published


def _names(folder: Path) -> list[str]:
    """The names of the files, with those of modules and chat templates in folders of theirs."""
    if (folder / MODULES).is_symlink():
        raise ResultError(f"{MODULES} cannot be read: it is a link")
    inside = {name for name in files_listed(folder) if not name.endswith(".safetensors")}
    inside |= set(templates_in(folder))
    folders = {name.partition("/")[0] for name in inside}
    if any((folder / name).is_symlink() for name in folders):
        raise ResultError("a folder in the trainer's output folder is a link")
    return [*sorted(path.name for path in folder.iterdir() if path.name not in folders), *sorted(inside)]


def discard(db: Database, storage: Storage, blobs: set[str]) -> None:
    """Delete blobs that were stored for a model that is not published, unless other rows use them."""
    if not blobs:
        return
    with db.read() as session:
        unused = [key for key in sorted(blobs) if not blob_in_use(session, key)]
    for key in unused:
        storage.delete(key)


@contextmanager
def regular(path: Path) -> Iterator[Any]:
    """Open a regular file, never through a link: the supervisor can read more than the trainer can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ResultError(f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not path.is_file():
            raise ResultError(f"{path.name} is not a regular file")
        yield file


def file_ref(file: Mapping[str, Any]) -> FileRef:
    return FileRef(file["name"], file["size"], file["sha256"])
