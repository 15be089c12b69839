"""Reads the files at hand: the result's folder, and the base's where the reader has it.

A folder is listed, and every file that the statement names is read once. What else is in the folder is left unread.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.evidence.format.digest import FileReading, read_bytes, read_file, sha256_bytes, sha256_file
from app.evidence.format.modules import MODULES, tensor_prefix, within
from app.evidence.format.statement import FileRef, Reading, Row
from app.evidence.format.tensorfile import MAX_HEADER, TensorFileError
from app.evidence.verifier.complete_result import CHANGED_FILE, complete, composed_header
from app.evidence.verifier.context import CannotCheck, Holdings, Problem, Rejected

INDEX_ENDING = ".safetensors.index.json"
SENTENCE_CONFIG = "config_sentence_transformers.json"
MAX_DOCUMENT = 64 << 20  # bytes of an index (half a million tensors) or a configuration


def is_configuration(name: str) -> bool:
    """A file whose content changes how a loader reads the weights."""
    return name.endswith("config.json") or name in (MODULES, SENTENCE_CONFIG)


def read_base(folder: Path, files: Iterable[FileRef], rows: Iterable[Row], *, whole_up_to: float) -> Holdings:
    """The base at hand. Links are followed: model caches are made of them, and what counts is the content.

    Weight files of more than `whole_up_to` bytes get no digest of their own: the base's root is over tensors.
    """
    files = list(files)
    held = _listed(folder, files)
    held.files, held.links = held.files | held.links, frozenset()
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
    files, rows = list(files), list(rows)
    held = _listed(folder, files)
    sizes = {file.name: file.size for file in files}
    slices = _slices(rows, lambda row: row.result)
    names = [file.name for file in files if file.name in held.files | held.links]
    whole = [file.name for file in files if file.name.endswith(".safetensors")]
    if CHANGED_FILE not in held.files or CHANGED_FILE in whole or len(whole) != 1 or whole[0] in names:
        large = _large(folder, names, whole_up_to) if len(whole) == 1 else []
        header = composed_header(rows, metadata) if large else None
        return _read(held, names, slices, headers=dict.fromkeys(large, header) if header else {}, sizes=sizes)
    if base is None:
        raise CannotCheck(f"{folder} holds only the tensors that changed; give the base as well (--base DIR)")
    sizes[CHANGED_FILE] = sizes[whole[0]] + MAX_HEADER
    return complete(_read(held, [*names, CHANGED_FILE], slices, sizes=sizes), whole[0], rows, metadata, base)


def _listed(folder: Path, files: Iterable[FileRef]) -> Holdings:
    """The entries of the folder, and those of the folders inside it that the statement names files of."""
    inside = {file.name.partition("/")[0] for file in files if "/" in file.name}
    kinds = _kinds(folder)
    for name in inside & {name for name, mode in kinds.items() if stat.S_ISDIR(mode)}:
        del kinds[name]
        kinds |= {f"{name}/{entry}": mode for entry, mode in _kinds(folder / name).items()}
    return Holdings(
        folder,
        frozenset(name for name, mode in kinds.items() if stat.S_ISREG(mode)),
        frozenset(name for name, mode in kinds.items() if stat.S_ISLNK(mode)),
        frozenset(name for name, mode in kinds.items() if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode)),
    )


def _kinds(folder: Path) -> dict[str, int]:
    """The mode of every entry, of links their own."""
    try:
        return {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in os.scandir(folder)}
    except OSError as error:
        raise CannotCheck(f"{folder}: {error.strerror}") from None


def _slices(rows: Iterable[Row], stored: Callable[[Row], Reading | None]) -> dict[str, list[tuple[int, int]]]:
    """Rejects a partly frozen tensor whose row ranges are not the policy's, or whose frozen rows changed."""
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
    weights = (name for name in names if name.endswith(".safetensors"))
    return [name for name in weights if (folder / name).exists() and (folder / name).stat().st_size > limit]


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
        readings = pool.map(lambda name: _read_one(held, name, slices, headers, sizes.get(name)), names)
        for name, read in zip(names, readings, strict=True):
            if isinstance(read, Problem):
                problems.append(read)
            elif isinstance(read, FileReading):
                held.weights[name] = read
                held.digests[name] = read.sha256 or None, read.size
            elif isinstance(read, bytes):
                held.documents[name] = read
                held.digests[name] = sha256_bytes(read), len(read)
            else:
                held.digests[name] = read
    if problems:
        raise Rejected(problems)
    return held


def _read_one(
    held: Holdings,
    name: str,
    slices: Mapping[str, list[tuple[int, int]]],
    headers: Mapping[str, str | None],
    most: int | None,
) -> FileReading | bytes | tuple[str, int] | Problem:
    path = held.folder / name
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            return Problem("file_sizes", f"{size} bytes, at most {most} by the statement", name)
        if name.endswith(INDEX_ENDING) or is_configuration(name):
            if size > MAX_DOCUMENT:
                return Problem("readable", f"{size} bytes, at most {MAX_DOCUMENT} are read of a configuration", name)
            return read_bytes(path)
        if not name.endswith(".safetensors"):
            return sha256_file(path), size
        mine = {tensor.removeprefix(tensor_prefix(name)): spans for tensor, spans in slices.items()}
        if name in headers:
            read = read_file(path, rows=mine, whole=False)
            if headers[name] in (None, read.header):
                return within(read, name)
        return within(read_file(path, rows=mine), name)
    except TensorFileError as error:
        return Problem("readable", str(error), name)
    except OSError as error:
        if name in held.links or error.errno == errno.ENOENT:  # a link of the base that leads nowhere
            return Problem("readable", f"a link that cannot be followed: {error.strerror}", name)
        raise CannotCheck(f"{path}: {error.strerror}") from None
