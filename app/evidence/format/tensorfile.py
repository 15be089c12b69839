"""Strict reading of safetensors headers: a file that two parsers may understand differently is refused.

The reference parser takes the last of two equal keys and ignores unknown fields, so two readers may see two models in
one signed file. `RULES` holds every refusal by name; the tamper suite shows that each one is needed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from json import dumps
from typing import Any, NamedTuple

from app.evidence.format.strict import JsonError, JsonObject, read_json, repeated_keys
from app.jsontypes import JsonDict

# Bits per element, in the reference writer's file order: tensors of the first dtype here come first in the file.
DTYPE_BITS: dict[str, int] = {
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F32": 32,
    "U32": 32,
    "I32": 32,
    "BF16": 16,
    "F16": 16,
    "U16": 16,
    "I16": 16,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E8M0": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I8": 8,
    "U8": 8,
    "F6_E3M2": 6,
    "F6_E2M3": 6,
    "F4": 4,
    "BOOL": 8,
}
_FILE_ORDER = {dtype: place for place, dtype in enumerate(DTYPE_BITS)}

MAX_HEADER = 8 << 20  # bytes: some 80,000 tensors; parsing the 100 MB that the reference parser takes costs 1 GB
MAX_NAME = 1024  # bytes: policies and comparisons look at every prefix of a name
MAX_SEGMENTS = 64  # between dots
_MAX_DIMENSION = 1 << 63
_PREFIX = 8  # bytes that hold the header's length
_POINTER = b"version "  # how a Git LFS pointer begins; as a length it is more than two exabytes
_FIELDS = {"dtype", "shape", "data_offsets"}


class TensorFileError(ValueError):
    """A file that is not valid safetensors, or is ambiguous."""


class TensorEntry(NamedTuple):
    """One tensor of a header; `start` and `end` are byte offsets from the beginning of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class Header(NamedTuple):
    """Entries in file order, the file's metadata, and where the data section starts."""

    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]
    data_start: int


def byte_count(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor. Raises TensorFileError for an unknown dtype or a count of bits that fills no whole bytes."""
    if dtype not in DTYPE_BITS:
        raise TensorFileError(f"dtype {dtype!r} is not one of {', '.join(DTYPE_BITS)}")
    bits = _elements(shape) * DTYPE_BITS[dtype]
    if bits % 8:
        raise TensorFileError(f"{bits} bits of {dtype} do not fill whole bytes")
    return bits // 8


def _elements(shape: Iterable[int]) -> int:
    """The product of the sizes, exact up to the largest file: that of half a million sizes would take minutes."""
    sizes = sorted(shape)  # a zero comes first
    count = 1
    for size in sizes:
        count *= size
        if not 0 < count < _MAX_DIMENSION << 3:
            break
    return count


def header_length(prefix: bytes, *, size: int) -> int:
    """Bytes before the data section (the length field included), from the file's first 8 bytes and its size."""
    if len(prefix) < _PREFIX:
        raise TensorFileError(f"{size} bytes are too few for a safetensors file")
    if prefix[:_PREFIX] == _POINTER:
        raise TensorFileError(
            "a Git LFS pointer, a few lines of text in place of the file; run 'git lfs pull' in its folder, or "
            "download the file itself"
        )
    length = int.from_bytes(prefix[:_PREFIX], "little")
    if length > MAX_HEADER:
        raise TensorFileError(f"header of {length} bytes, the limit is {MAX_HEADER}")
    if _PREFIX + length > size:
        raise TensorFileError(f"truncated: a header of {length} bytes in a file of {size} bytes")
    return _PREFIX + length


def parse_header(raw: bytes, *, size: int) -> Header:
    """Parse the first `header_length` bytes of a file of `size` bytes. Raises TensorFileError."""
    raw = raw[: header_length(raw, size=size)]
    draft = _draft(raw, size=size)
    for rule in RULES.values():
        for problem in rule(draft):
            raise TensorFileError(problem)
    entries = sorted(draft.entries, key=lambda entry: (entry.start, entry.end, entry.name))
    return Header(tuple(entries), dict(draft.metadata), len(raw))


def in_file_order(tensors: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(name, dtype) pairs in the reference writer's order: larger dtypes first, then names by their UTF-8 bytes."""
    return sorted(tensors, key=lambda pair: (_FILE_ORDER[pair[1]], pair[0].encode()))


def header_bytes(entries: Iterable[TensorEntry], metadata: Mapping[str, str] | None = None) -> bytes:
    """The header of a file with these entries, in the order given, as the reference writer makes it."""
    document: JsonDict = {}
    if metadata:
        document["__metadata__"] = dict(sorted(metadata.items()))
    for entry in entries:
        offsets = [entry.start, entry.end]
        document[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    text = dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data section starts on a multiple of 8
    return len(text).to_bytes(_PREFIX, "little") + text


class _Draft(NamedTuple):
    """A parsed header to which no rule has been applied."""

    text: bytes
    document: JsonObject
    metadata: Mapping[str, Any]
    entries: tuple[TensorEntry, ...]
    data_size: int


def _draft(raw: bytes, *, size: int) -> _Draft:
    text = raw[_PREFIX:]
    try:
        document = read_json(text)
    except JsonError as error:
        raise TensorFileError(f"header: {error}") from None
    if not isinstance(document, JsonObject):
        raise TensorFileError("header: not a JSON object")
    metadata = document.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise TensorFileError("__metadata__: not a JSON object")
    entries = tuple(_entry(name, value) for name, value in document.items() if name != "__metadata__")
    return _Draft(text, document, metadata, entries, size - len(raw))


def _entry(name: str, value: Any) -> TensorEntry:
    if not isinstance(value, dict) or not _FIELDS.issubset(value):
        raise TensorFileError(f"tensor {name!r}: an entry has dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise TensorFileError(f"tensor {name!r}: dtype is not a string")
    if not _counts(shape):
        raise TensorFileError(f"tensor {name!r}: shape is not a list of non-negative integers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TensorFileError(f"tensor {name!r}: data_offsets are not two integers in order")
    return TensorEntry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _MAX_DIMENSION for item in value)


def _starts_with_brace(draft: _Draft) -> Iterator[str]:
    if not draft.text.startswith(b"{"):
        yield "header: does not start with '{'"


def _padded_with_spaces(draft: _Draft) -> Iterator[str]:
    if not draft.text.rstrip(b" ").endswith(b"}"):
        yield "header: something other than spaces after its last '}'"


def _unique_keys(draft: _Draft) -> Iterator[str]:
    yield from (f"header: key {key!r} appears twice" for key in repeated_keys(draft.document))


def _short_names(draft: _Draft) -> Iterator[str]:
    for entry in draft.entries:
        if len(entry.name.encode()) > MAX_NAME or entry.name.count(".") >= MAX_SEGMENTS:
            limits = f"names have at most {MAX_NAME} bytes and {MAX_SEGMENTS} segments"
            yield f"tensor {entry.name[:60]!r}...: {limits}"


def _metadata_is_text(draft: _Draft) -> Iterator[str]:
    for key, value in draft.metadata.items():
        if not isinstance(value, str):
            yield f"__metadata__.{key}: not a string"


def _known_fields(draft: _Draft) -> Iterator[str]:
    for entry in draft.entries:
        for field in sorted(set(draft.document[entry.name]) - _FIELDS):
            yield f"tensor {entry.name!r}: unknown field {field!r}"


def _known_dtype(draft: _Draft) -> Iterator[str]:
    for entry in draft.entries:
        if entry.dtype not in DTYPE_BITS:
            yield f"tensor {entry.name!r}: unknown dtype {entry.dtype!r}"


def _shape_fits(draft: _Draft) -> Iterator[str]:
    for entry in draft.entries:
        bits = _elements(entry.shape) * DTYPE_BITS.get(entry.dtype, 0)
        if entry.dtype in DTYPE_BITS and bits != 8 * entry.nbytes:
            shape = f"{list(entry.shape[:8])}{' and more' if len(entry.shape) > 8 else ''}"
            yield f"tensor {entry.name!r}: {entry.dtype} of shape {shape} does not take {entry.nbytes} bytes"


def _no_overlap(draft: _Draft) -> Iterator[str]:
    for previous, entry in _neighbours(draft):
        if entry.start < previous.end:
            yield f"tensors {previous.name!r} and {entry.name!r} overlap"


def _no_hole(draft: _Draft) -> Iterator[str]:
    for previous, entry in _neighbours(draft):
        if entry.start > previous.end:
            yield f"a hole of {entry.start - previous.end} bytes before tensor {entry.name!r}"


def _not_truncated(draft: _Draft) -> Iterator[str]:
    for entry in draft.entries:
        if entry.end > draft.data_size:
            yield f"truncated: tensor {entry.name!r} ends at byte {entry.end} of {draft.data_size} bytes of data"


def _no_trailing_bytes(draft: _Draft) -> Iterator[str]:
    extra = draft.data_size - max((entry.end for entry in draft.entries), default=0)
    if extra > 0:
        yield f"{extra} bytes after the last tensor"


def _neighbours(draft: _Draft) -> Iterator[tuple[TensorEntry, TensorEntry]]:
    previous = TensorEntry("", "U8", (0,), 0, 0)
    for entry in sorted(draft.entries, key=lambda entry: (entry.start, entry.end)):
        yield previous, entry
        previous = entry


RULES: dict[str, Callable[[_Draft], Iterator[str]]] = {
    "starts_with_brace": _starts_with_brace,
    "padded_with_spaces": _padded_with_spaces,
    "unique_keys": _unique_keys,
    "short_names": _short_names,
    "metadata_is_text": _metadata_is_text,
    "known_fields": _known_fields,
    "known_dtype": _known_dtype,
    "shape_fits": _shape_fits,
    "no_overlap": _no_overlap,
    "no_hole": _no_hole,
    "not_truncated": _not_truncated,
    "no_trailing_bytes": _no_trailing_bytes,
}
