"""A base model of three tensors, and a result that changed one of them."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from app.db import now
from app.evidence.format.digest import read_file
from app.freeze.plan import TensorInfo
from app.http.dependencies import Backends
from app.models.catalog import layout
from app.models.tables import Model

SPEC = {"type": "transformers", "path": "tiny", "task": "text-classification"}


NAMES = ["bert.embeddings.weight", "bert.encoder.layer.0.weight", "classifier.weight"]


def add_model(backends: Backends, folder: Path, model_id: str = "tiny", **fields: Any) -> Model:
    """A base model of three tensors, stored as a worker stores one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    path.write_bytes(save({name: np.full((2, 3), at, np.float32) for at, name in enumerate(NAMES)}))
    blob, reading = backends.storage.put(path), read_file(path)
    row = Model(id=model_id, owned_by="permafrost", kind="base", status="ready", spec=SPEC, root="ab" * 32)
    row.files = [{"name": path.name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key}]
    row.tensors = [stored(each, blob.key) for each in reading.tensors]
    row.manifest = [TensorInfo(name, (2, 3), "F32").to_json() for name in NAMES]
    for name, value in fields.items():
        setattr(row, name, value)
    with backends.database.write() as session:
        row.created_at = now(session)
        session.add(row)
    return row


def stored(tensor: Any, blob: str) -> dict[str, Any]:
    values = {key: getattr(tensor, key) for key in ("name", "dtype", "nbytes", "sha256", "offset")}
    return {**values, "shape": list(tensor.shape), "file": "model.safetensors", "blob": blob}


def add_result(backends: Backends, folder: Path, base: Model) -> Model:
    """A result that changed one of the base's tensors: its file is composed of both blobs."""
    path = folder / "changed.safetensors"
    path.write_bytes(save({NAMES[2]: np.full((2, 3), 9, np.float32)}))
    blob, (changed,) = backends.storage.put(path), read_file(path).tensors
    tensors = [each for each in base.tensors if each["name"] != changed.name] + [stored(changed, blob.key)]
    row = Model(id="ft:tiny:default:x:1", project="default", owned_by="default", kind="fine_tuned", status="ready")
    row.spec, row.base_id, row.tensors, row.files = SPEC, base.id, tensors, []
    composed = layout(row, "model.safetensors")
    digest = composed.sha256(backends.storage.open)
    row.files = [{"name": "model.safetensors", "size": composed.size, "sha256": digest, "blob": None}]
    with backends.database.write() as session:
        row.created_at = now(session)
        session.add(row)
    return row
