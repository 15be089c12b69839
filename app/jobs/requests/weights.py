"""An uploaded file of weights: whether it is one, and whether it holds the tensors of the architecture."""

from collections.abc import Collection

from app.errors import ModelError
from app.evidence.format.tensorfile import Header, TensorFileError, header_length, parse_header
from app.files.tables import File
from app.freeze.tensors import TensorInfo
from app.storage.blobs import Storage

_PARAM = "model.weights"


def refuse_other_weights(storage: Storage, file: File, tensors: Collection[TensorInfo] | None) -> None:
    """Reads the header alone. Raises ModelError; with `tensors` also for other names or shapes than theirs."""
    try:
        header = _header(storage, file)
    except TensorFileError as error:
        message = f"{file.filename!r} is no safetensors file: {error}"
        raise ModelError(message, param=_PARAM, code="invalid_weights") from None
    if tensors is None:
        return
    wanted = {each.name: tuple(each.shape) for each in tensors}
    found = {each.name: each.shape for each in header.entries}
    if wanted == found:
        return
    differing = sorted(wanted.keys() | found.keys(), key=lambda name: (wanted.get(name) is None, name))
    name = next(each for each in differing if wanted.get(each) != found.get(each))
    message = f"{file.filename!r} does not fit: tensor {name!r} is {_told(found.get(name))} in it, "
    message += f"and {_told(wanted.get(name))} in the architecture"
    raise ModelError(message, param=_PARAM, code="weights_do_not_fit")


def _header(storage: Storage, file: File) -> Header:
    with storage.open(file.blob) as source:
        prefix = source.read(8)
        rest = source.read(header_length(prefix, size=file.bytes) - len(prefix))
    return parse_header(prefix + rest, size=file.bytes)


def _told(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else f"of shape {list(shape)}"
