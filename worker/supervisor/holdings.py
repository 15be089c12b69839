"""What the supervisor has read of base and result, in the form in which the verifier reads folders.

So it can ask the verifier before it signs.
"""

from collections.abc import Iterable
from pathlib import Path

from app.evidence.format.digest import FileReading, TensorReading, read_bytes
from app.evidence.verifier.context import Holdings
from app.evidence.verifier.read_files import INDEX_ENDING, is_configuration
from app.jsontypes import JsonDict
from app.models.papers import without_papers
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.protocol import Workspace
from worker.supervisor.artifacts import Artifacts, ResultError


def of_result(artifacts: Artifacts, storage: Storage) -> Holdings:
    """The result's folder as a reader will have it."""
    tensors, metadata = artifacts.result_readings(), artifacts.result.metadata
    held = Holdings(Path(), frozenset(file.name for file in artifacts.files))
    held.digests = {file.name: (file.sha256, file.size) for file in artifacts.files}
    for file in artifacts.weights:
        ref, mine = file.ref, tuple(tensors[row["name"]] for row in file.tensors())
        held.weights[ref.name] = FileReading(ref.name, ref.size, ref.sha256, mine, metadata)
    for other in artifacts.others:
        if _is_document(other["name"]):
            with storage.open(other["blob"]) as source:
                held.documents[other["name"]] = source.read()
    return held


def of_base(base: Model, workspace: Workspace, tensors: Iterable[TensorReading]) -> Holdings:
    """The base's folder; `tensors` are the readings of its weights. Raises ResultError for a file that is gone."""
    files = without_papers(base.files)
    held = Holdings(workspace.base, frozenset(file["name"] for file in files))
    held.digests = {file["name"]: (file["sha256"], file["size"]) for file in files}
    held.weights = _weights(files, base.tensors, {tensor.name: tensor for tensor in tensors})
    for name in filter(_is_document, held.files):
        try:
            held.documents[name] = read_bytes(workspace.base / name)
        except OSError as error:
            raise ResultError(f"{name} of base model {base.id} cannot be read: {error.strerror}") from error
    return held


def _weights(
    files: Iterable[JsonDict], stored: Iterable[JsonDict], tensors: dict[str, TensorReading]
) -> dict[str, FileReading]:
    by_file: dict[str, list[TensorReading]] = {}
    for row in stored:
        by_file.setdefault(row["file"], []).append(tensors[row["name"]])
    return {
        file["name"]: FileReading(file["name"], file["size"], file["sha256"], tuple(by_file.get(file["name"], ())), {})
        for file in files
        if file["name"].endswith(".safetensors")
    }


def _is_document(name: str) -> bool:
    return name.endswith(INDEX_ENDING) or is_configuration(name)
