"""Completes a result folder that holds only the changed tensors, from the base's files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from app.evidence.format.compose import ComposeError, Slice, compose
from app.evidence.format.digest import FileReading, TensorReading, sha256_bytes
from app.evidence.format.statement import Row
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.verifier.context import Holdings, Problem, Rejected

CHANGED_FILE = "model.changed.safetensors"  # a result without what it shares with its base


def complete(held: Holdings, name: str, rows: list[Row], metadata: Mapping[str, str], base: Holdings) -> Holdings:
    """The folder as if it held the file `name`, laid out from the changed tensors and the base's, and digested."""
    changed = {tensor.name: tensor for tensor in held.weights[CHANGED_FILE].tensors}
    sources = {tensor.name: (tensor, file) for file, read in base.weights.items() for tensor in read.tensors}
    slices, tensors = [], []
    for row in rows:
        if row.result is None:
            continue
        tensor, file = changed.pop(row.result.name, None), held.folder / CHANGED_FILE
        if tensor is None:
            if row.base is None or row.base.name not in sources:
                raise Rejected([Problem("readable", "neither in the changed tensors nor in the base", row.name)])
            tensor, base_file = sources[row.base.name]
            file = base.folder / base_file
        tensors.append(_renamed(tensor, row.result.name))
        slices.append(
            Slice(row.result.name, tensor.dtype, tensor.shape, str(file), tensor.offset, tensor.nbytes, tensor.sha256)
        )
    if changed:
        raise Rejected([Problem("readable", "not in the statement", one) for one in changed])
    try:
        layout = compose(slices, metadata)
        sha256 = layout.sha256(_open)
    except ComposeError as error:
        raise Rejected([Problem("readable", str(error), name)]) from None
    del held.weights[CHANGED_FILE], held.digests[CHANGED_FILE]
    held.files = held.files - {CHANGED_FILE} | {name}
    held.weights[name] = FileReading(name, layout.size, sha256, tuple(tensors), dict(metadata))
    held.digests[name] = sha256, layout.size
    return held


def _renamed(tensor: TensorReading, name: str) -> TensorReading:
    return TensorReading(name, tensor.dtype, tensor.shape, tensor.nbytes, tensor.offset, tensor.sha256, tensor.slices)


def _open(path: str) -> BinaryIO:
    return Path(path).open("rb")


def composed_header(rows: Iterable[Row], metadata: Mapping[str, str]) -> str | None:
    """SHA-256 of the header that a file composed of the rows' result tensors has; None if they make no file."""
    readings = [row.result for row in rows if row.result]
    try:
        layout = compose((Slice(r.name, r.dtype, r.shape, "", 0, r.nbytes, r.sha256) for r in readings), metadata)
    except (ComposeError, TensorFileError):
        return None
    return sha256_bytes(layout.header)
