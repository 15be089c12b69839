"""Checks an uploaded file of weights: that it is a safetensors file with the tensors of the architecture."""

from collections.abc import Collection

from app.errors import ModelError
from app.evidence.format.tensorfile import Header, TensorFileError, header_length, parse_header
from app.files.tables import File
from app.freeze.tensors import TensorInfo
from app.storage.blobs import Storage

_PARAM = "model.weights"


def refuse_other_weights(storage: Storage, file: File, tensors: Collection[TensorInfo] | None) -> None:
    """Raises ModelError for a file that is not safetensors or, with `tensors`, has other names or shapes than theirs.

    Reads the header alone.
    """
    try:
        header = _header(storage, file)
    except TensorFileError as error:
        message = f"{file.filename!r} is not a safetensors file: {error}"
        raise ModelError(message, param=_PARAM, code="invalid_weights") from None
    if tensors is None:
        return

    expected = {tensor.name: tuple(tensor.shape) for tensor in tensors}
    shapes = {entry.name: entry.shape for entry in header.entries}
    if expected == shapes:
        return

    names = sorted(expected.keys() | shapes.keys(), key=lambda name: (expected.get(name) is None, name))
    name = next(name for name in names if expected.get(name) != shapes.get(name))
    message = f"{file.filename!r} does not fit: tensor {name!r} is {_shape_text(shapes.get(name))} in it, "
    message += f"and {_shape_text(expected.get(name))} in the architecture"
    raise ModelError(message, param=_PARAM, code="weights_do_not_fit")


def _header(storage: Storage, file: File) -> Header:
    with storage.open(file.blob) as source:
        prefix = source.read(8)
        rest = source.read(header_length(prefix, size=file.bytes) - len(prefix))
    return parse_header(prefix + rest, size=file.bytes)


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else f"of shape {list(shape)}"
