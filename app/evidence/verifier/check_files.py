"""Checks of the files at hand against the statement: the result's, and the base's where the reader has it.

A directory is listed, every file that the statement names is read once, and everything else in it is suspect.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.evidence.format.digest import FileReading, TensorReading, read_bytes, read_file, sha256_bytes, sha256_file
from app.evidence.format.statement import FileRef, Reading, Row
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.format.tensorfile import MAX_HEADER, TensorFileError
from app.evidence.verifier.complete_result import CHANGED_FILE, complete, composed_header
from app.evidence.verifier.context import CannotCheck, Check, CheckContext, Holdings, Problem, Rejected

SIGNATURE_FILE = "model.sig"  # an OpenSSF model-signing bundle, with a verifier of its own
INDEX_ENDING = ".safetensors.index.json"

# What a loader may prefer to the safetensors files, or run.
_CONTAINERS = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".npz",
    ".joblib",
)
_CODE = (".py", ".pyc", ".so", ".ipynb")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def read_base(folder: Path, files: Iterable[FileRef], rows: Iterable[Row], *, whole_up_to: float) -> Holdings:
    """The base at hand. Links are followed: model caches are made of them, and what counts is the content.

    Weight files of more than `whole_up_to` bytes get no digest of their own: the base's root is over tensors.
    """
    held = _listed(folder)
    held.files |= held.links
    slices = _slices(rows, lambda row: row.base)
    names = [file.name for file in files if file.name in held.files]
    return _read(held, names, slices, headers=dict.fromkeys(_large(folder, names, whole_up_to)))


def read_result(
    folder: Path,
    files: Iterable[FileRef],
    rows: Iterable[Row],
    *,
    metadata: Mapping[str, str],
    base: Holdings | None,
    whole_up_to: float,
) -> Holdings:
    """The result at hand: all of it, or only the tensors that changed, which the base then completes.

    A weight file of more than `whole_up_to` bytes gets no digest of its own if its header is the one that follows from
    the statement's rows: with header and tensors all of its bytes have been compared with what was signed.
    """
    held, files, rows = _listed(folder), list(files), list(rows)
    sizes = {file.name: file.size for file in files}
    slices = _slices(rows, lambda row: row.result)
    names = [file.name for file in files if file.name in held.files | held.links]
    whole = [file.name for file in files if file.name.endswith(".safetensors")]
    if CHANGED_FILE not in held.files or CHANGED_FILE in whole or len(whole) != 1 or whole[0] in names:
        large = _large(folder, names, whole_up_to) if len(whole) == 1 else []
        header = composed_header(rows, metadata) if large else None
        return _read(held, names, slices, headers=dict.fromkeys(large, header) if header else {}, sizes=sizes)
    if base is None:
        raise CannotCheck(f"{folder} has only the tensors that changed; give the base as well (--base DIR)")
    sizes[CHANGED_FILE] = sizes[whole[0]] + MAX_HEADER
    return complete(_read(held, [*names, CHANGED_FILE], slices, sizes=sizes), whole[0], rows, metadata, base)


def _listed(folder: Path) -> Holdings:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise CannotCheck(f"{folder}: {error.strerror}") from None
    kinds = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    return Holdings(
        folder,
        frozenset(name for name, mode in kinds.items() if stat.S_ISREG(mode)),
        frozenset(name for name, mode in kinds.items() if stat.S_ISLNK(mode)),
        frozenset(name for name, mode in kinds.items() if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode)),
    )


def _slices(rows: Iterable[Row], stored: Callable[[Row], Reading | None]) -> dict[str, list[tuple[int, int]]]:
    """Row ranges to digest, by the stored tensor's name."""
    return {
        reading.name: held
        for row in rows
        if row.slices
        and (reading := stored(row))
        and (held := [part.rows for part in row.slices if _has(reading, part.rows)])
    }


def _has(reading: Reading, rows: tuple[int, int]) -> bool:
    return bool(reading.shape) and 0 <= rows[0] < rows[1] <= reading.shape[0]


def _large(folder: Path, names: Iterable[str], limit: float) -> list[str]:
    """The weight files of more than `limit` bytes."""
    weights = (folder / name for name in names if name.endswith(".safetensors"))
    return [path.name for path in weights if path.exists() and path.stat().st_size > limit]


def _read(
    held: Holdings,
    names: list[str],
    slices: Mapping[str, list[tuple[int, int]]],
    *,
    headers: Mapping[str, str | None] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Holdings:
    """Read the named files. Those in `headers` get no digest of their own if their header is that one (None: any).

    A file of more bytes than in `sizes` is not read at all: a terabyte of zeros takes no room on a disk.
    """
    headers, sizes = headers or {}, sizes or {}
    problems: list[Problem] = []
    # As many files at a time as there are pairs of cores: each keeps two threads busy.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        each = pool.map(lambda name: _read_one(held.folder / name, slices, headers, sizes.get(name)), names)
        for name, read in zip(names, each, strict=True):
            if isinstance(read, Problem):
                problems.append(read)
            elif isinstance(read, FileReading):
                held.weights[name] = read
                held.digests[name] = read.sha256 or None, read.size
            elif isinstance(read, bytes):
                held.indexes[name] = read
                held.digests[name] = sha256_bytes(read), len(read)
            else:
                held.digests[name] = read
    if problems:
        raise Rejected(problems)
    return held


def _read_one(
    path: Path, slices: Mapping[str, list[tuple[int, int]]], headers: Mapping[str, str | None], most: int | None
) -> FileReading | bytes | tuple[str, int] | Problem:
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            return Problem("file_sizes", f"{size} bytes, at most {most} claimed", path.name)
        if path.name.endswith(INDEX_ENDING):
            return read_bytes(path)
        if not path.name.endswith(".safetensors"):
            return sha256_file(path), size
        if path.name in headers:
            read = read_file(path, rows=slices, whole=False)
            if headers[path.name] in (None, read.header):
                return read
        return read_file(path, rows=slices)
    except TensorFileError as error:
        return Problem("readable", str(error), path.name)
    except FileNotFoundError:  # a link that leads nowhere
        return Problem("readable", "not there", path.name)
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}") from None


def _of_result(context: CheckContext) -> Holdings:
    if context.result is None:
        raise AssertionError("a check of the result ran before it was read")
    return context.result


def _of_base(context: CheckContext) -> Holdings:
    if context.base is None:
        raise AssertionError("a check of the base ran before it was read")
    return context.base


def _no_links(context: CheckContext) -> Iterator[Problem]:
    for name in sorted(_of_result(context).links):
        yield Problem("no_links", "a symbolic link; a result is made of plain files", name)


def _no_folders(context: CheckContext) -> Iterator[Problem]:
    for name in sorted(_of_result(context).others):
        yield Problem("no_folders", "not a plain file", name)


def _nothing_missing(context: CheckContext) -> Iterator[Problem]:
    held = _of_result(context)
    for file in context.statement.predicate.result_files:
        if file.name not in held.files | held.links:
            yield Problem("nothing_missing", "missing from the result", file.name, file.sha256, None)


def _nothing_extra(context: CheckContext) -> Iterator[Problem]:
    held, inputs = _of_result(context), context.inputs
    listed = {file.name for file in context.statement.predicate.result_files}
    for name in sorted(held.files - listed - {SIGNATURE_FILE}):
        # By its one name: a hard link to it may be called a configuration, and an envelope has room for one.
        if inputs.attestation is None or inputs.attestation.resolve() != held.folder.resolve() / name:
            yield Problem("nothing_extra", "in the result's folder, but not in the statement", name)


def _no_containers(context: CheckContext) -> Iterator[Problem]:
    for file in context.statement.predicate.result_files:
        if file.name.lower().endswith(_CONTAINERS):
            yield Problem("no_containers", "weights in another format, which a loader may prefer", file.name)


def _file_digests(context: CheckContext) -> Iterator[Problem]:
    yield from _compare_files("file_digests", context.statement.predicate.result_files, _of_result(context))


def _compare_files(check: str, files: Iterable[FileRef], held: Holdings) -> Iterator[Problem]:
    for file in files:
        found = held.digests.get(file.name, (None, 0))[0]
        if found is not None and found != file.sha256:
            yield Problem(check, "another file than the signed one", file.name, file.sha256, found)


def _file_sizes(context: CheckContext) -> Iterator[Problem]:
    held = _of_result(context)
    for file in context.statement.predicate.result_files:
        if file.name in held.digests and held.digests[file.name][1] != file.size:
            yield Problem("file_sizes", f"{held.digests[file.name][1]} bytes, {file.size} claimed", file.name)


def _tensors_once(context: CheckContext) -> Iterator[Problem]:
    yield from _repeated("tensors_once", _of_result(context))


def _repeated(check: str, held: Holdings) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for file, reading in sorted(held.weights.items()):
        for tensor in reading.tensors:
            if tensor.name in seen:
                yield Problem(check, f"in two files, {seen[tensor.name]} and {file}", tensor.name)
            seen[tensor.name] = file


def _tensors_as_claimed(context: CheckContext) -> Iterator[Problem]:
    readings = [row.result for row in context.statement.predicate.rows if row.result]
    yield from _compare_tensors("tensors_as_claimed", readings, _of_result(context).tensors(), "result")


def _compare_tensors(
    check: str, claimed: list[Reading], found: Mapping[str, TensorReading], what: str
) -> Iterator[Problem]:
    for reading in claimed:
        tensor = found.get(reading.name)
        if tensor is None:
            yield Problem(check, f"not in the {what}'s files", reading.name, reading.sha256, None)
        elif (tensor.dtype, tensor.shape) != (reading.dtype, reading.shape):
            claimed_form, stored_form = (f"{one.dtype} {list(one.shape)}" for one in (reading, tensor))
            yield Problem(check, f"{stored_form} in the {what}'s files, {claimed_form} in the statement", reading.name)
        elif tensor.sha256 != reading.sha256:
            yield Problem(check, f"other bytes in the {what}'s files", reading.name, reading.sha256, tensor.sha256)
    for name in sorted(set(found) - {reading.name for reading in claimed}):
        yield Problem(check, f"in the {what}'s files, but not in the statement", name, None, found[name].sha256)


def _slices_as_claimed(context: CheckContext) -> Iterator[Problem]:
    """The bytes of partly frozen tensors, row range by row range, in whatever files are at hand."""
    for row in context.statement.predicate.rows:
        for part in row.slices:
            for what, held, reading, digest in (
                ("base", context.base, row.base, part.base),
                ("result", context.result, row.result, part.result),
            ):
                if held is None or reading is None:
                    continue
                found = _slice_digest(held.tensors().get(reading.name), part.rows)
                if found != digest:
                    reason = f"rows {part.rows[0]} to {part.rows[1]} have other bytes in the {what}'s files"
                    yield Problem("slices_as_claimed", reason, row.name, digest, found)


def _slice_digest(tensor: TensorReading | None, rows: tuple[int, int]) -> str | None:
    slices = tensor.slices if tensor else ()
    return next((part.sha256 for part in slices if (part.start, part.stop) == rows), None)


def _index(context: CheckContext) -> Iterator[Problem]:
    """Where weights are in several files, the index says which; it has to say what is the case."""
    held = _of_result(context)
    if len(held.weights) > 1 and not held.indexes:
        yield Problem("index", f"{len(held.weights)} files of weights and no index that says what a loader is to read")
    where = {tensor.name: file for file, reading in held.weights.items() for tensor in reading.tensors}
    for name, raw in held.indexes.items():
        try:
            document = read_json(raw)
        except JsonError as error:
            yield Problem("index", str(error), name)
            continue
        for key in repeated_keys(document):
            yield Problem("index", f"key {key!r} appears twice", name)
        if not isinstance(document, dict) or document.get("weight_map") != where:
            yield Problem("index", "its weight_map is not where the tensors are", name)


def _base_files(context: CheckContext) -> Iterator[Problem]:
    held = _of_base(context)
    for file in context.statement.predicate.base_files:
        if file.name not in held.files:
            yield Problem("base_files", "missing from the base", file.name, file.sha256, None)
    yield from _compare_files("base_files", context.statement.predicate.base_files, held)


def _base_strays(context: CheckContext) -> Iterator[Problem]:
    """Files that would change what a loader makes of the base. A README does not; code, adapters and weights do."""
    held = _of_base(context)
    for name in sorted(held.files - {file.name for file in context.statement.predicate.base_files}):
        lower = name.lower()
        if lower.endswith((*_CONTAINERS, *_CODE, ".safetensors", INDEX_ENDING)) or lower in _ADAPTERS:
            yield Problem("base_strays", "beside the base's files, and a loader would use it", name)


def _base_tensors_once(context: CheckContext) -> Iterator[Problem]:
    yield from _repeated("base_tensors_once", _of_base(context))


def _base_tensors(context: CheckContext) -> Iterator[Problem]:
    readings = [row.base for row in context.statement.predicate.rows if row.base]
    yield from _compare_tensors("base_tensors", readings, _of_base(context).tensors(), "base")


RESULT_CHECKS: dict[str, Check] = {
    "no_links": _no_links,
    "no_folders": _no_folders,
    "nothing_missing": _nothing_missing,
    "nothing_extra": _nothing_extra,
    "no_containers": _no_containers,
    "file_digests": _file_digests,
    "file_sizes": _file_sizes,
    "tensors_once": _tensors_once,
    "tensors_as_claimed": _tensors_as_claimed,
    "slices_as_claimed": _slices_as_claimed,
    "index": _index,
}

BASE_CHECKS: dict[str, Check] = {
    "base_files": _base_files,
    "base_strays": _base_strays,
    "base_tensors_once": _base_tensors_once,
    "base_tensors": _base_tensors,
}
