"""Checks of the files at hand against the statement: the result's, and the base's where the reader has it."""

from collections.abc import Iterable, Iterator, Mapping

from app.evidence.format.digest import TensorReading
from app.evidence.format.statement import FileRef, Reading
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.verifier.check_configuration import some
from app.evidence.verifier.check_loading import CODE, CONTAINERS, INDEX, WEIGHTS
from app.evidence.verifier.context import Check, CheckContext, Holdings, Problem, base_of, result_of
from app.evidence.verifier.read_files import INDEX_ENDING

SIGNATURE_FILE = "model.sig"  # an OpenSSF model-signing bundle, with a verifier of its own

_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def _no_links(context: CheckContext) -> Iterator[Problem]:
    """Rejects a symbolic link in the result's folder."""
    for name in sorted(result_of(context).links):
        yield Problem("no_links", "a symbolic link; a result is made of plain files", name)


def _no_folders(context: CheckContext) -> Iterator[Problem]:
    """Rejects a folder, device or pipe in the result's folder."""
    for name in sorted(result_of(context).others):
        yield Problem("no_folders", "not a plain file", name)


def _nothing_missing(context: CheckContext) -> Iterator[Problem]:
    """Rejects a result without one of the files of the statement."""
    held = result_of(context)
    for file in context.predicate.result_files:
        if file.name not in held.files | held.links:
            yield Problem("nothing_missing", "missing from the result", file.name, file.sha256, None)


def _nothing_extra(context: CheckContext) -> Iterator[Problem]:
    """Rejects a file that the statement does not list, except the attestation itself and `model.sig`."""
    held, inputs = result_of(context), context.inputs
    listed = {file.name for file in context.predicate.result_files}
    for name in sorted(held.files - listed - {SIGNATURE_FILE}):
        # By its one name: a hard link to it may be called a configuration, and an envelope has room for one.
        if inputs.attestation is None or inputs.attestation.resolve() != held.folder.resolve() / name:
            yield Problem("nothing_extra", "in the result's folder, but not in the statement", name)


def _file_digests(context: CheckContext) -> Iterator[Problem]:
    """Rejects a file with another SHA-256 than the statement gives."""
    yield from _compare_files("file_digests", context.predicate.result_files, result_of(context))


def _compare_files(check: str, files: Iterable[FileRef], held: Holdings) -> Iterator[Problem]:
    for file in files:
        found = held.digests.get(file.name, (None, 0))[0]
        if found is not None and found != file.sha256:
            yield Problem(check, "another file than the signed one", file.name, file.sha256, found)


def _file_sizes(context: CheckContext) -> Iterator[Problem]:
    """Rejects a file with another size than the statement gives."""
    held = result_of(context)
    for file in context.predicate.result_files:
        if file.name in held.digests and held.digests[file.name][1] != file.size:
            yield Problem("file_sizes", f"{held.digests[file.name][1]} bytes, {file.size} in the statement", file.name)


def _tensors_once(context: CheckContext) -> Iterator[Problem]:
    """Rejects a tensor name that two files of the result hold."""
    yield from _repeated("tensors_once", result_of(context))


def _repeated(check: str, held: Holdings) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for file, reading in sorted(held.weights.items()):
        for tensor in reading.tensors:
            if tensor.name in seen:
                yield Problem(check, f"in two files, {seen[tensor.name]} and {file}", tensor.name)
            seen[tensor.name] = file


def _tensors_as_claimed(context: CheckContext) -> Iterator[Problem]:
    """Rejects tensors of the result that differ from their rows in name, dtype, shape or bytes."""
    readings = [row.result for row in context.predicate.rows if row.result]
    yield from _compare_tensors("tensors_as_claimed", readings, result_of(context).tensors(), "result")


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
    """Rejects row ranges whose bytes in the files differ from the statement."""
    sides = (("base", context.base), ("result", context.result))
    digests = {side: _slice_digests(held) for side, held in sides if held is not None}
    for row in context.predicate.rows:
        for part in row.slices:
            for side, reading, stated in (("base", row.base, part.base), ("result", row.result, part.result)):
                if side not in digests or reading is None:
                    continue
                found = digests[side].get(reading.name, {}).get(part.rows)
                if found != stated:
                    reason = f"rows {part.rows[0]} to {part.rows[1]} have other bytes in the {side}'s files"
                    yield Problem("slices_as_claimed", reason, row.name, stated, found)


def _slice_digests(held: Holdings) -> dict[str, dict[tuple[int, int], str]]:
    """Digests of the row ranges that were read, by tensor and range."""
    tensors = held.tensors().values()
    return {
        each.name: {(part.start, part.stop): part.sha256 for part in each.slices} for each in tensors if each.slices
    }


def _index(context: CheckContext) -> Iterator[Problem]:
    """Rejects weights in several files without an index, and an index that does not match the files."""
    held = result_of(context)
    indexes = {name: raw for name, raw in held.documents.items() if name.endswith(INDEX_ENDING)}
    weights = {file: reading for file, reading in held.weights.items() if "/" not in file}  # not those of modules
    if len(weights) > 1 and not indexes:
        yield Problem("index", f"{len(weights)} weight files and no index that lists their tensors")
    where = {tensor.name: file for file, reading in weights.items() for tensor in reading.tensors}
    for name, raw in indexes.items():
        try:
            document = read_json(raw)
        except JsonError as error:
            yield Problem("index", str(error), name)
            continue
        for key in repeated_keys(document):
            yield Problem("index", f"key {key!r} appears twice", name)
        if not isinstance(document, dict) or document.get("weight_map") != where:
            yield Problem("index", "its weight_map does not match the tensors of the files", name)


def _base_files(context: CheckContext) -> Iterator[Problem]:
    """Rejects a base folder that lacks a file of the statement or holds another version of it."""
    held = base_of(context)
    for file in context.predicate.base_files:
        if file.name not in held.files:
            yield Problem("base_files", "missing from the base", file.name, file.sha256, None)
    yield from _compare_files("base_files", context.predicate.base_files, held)


def _base_strays(context: CheckContext) -> Iterator[Problem]:
    """Rejects adapters and safetensors files beside the base's: loaders use them unasked. Code and a README are fine.

    Weights in another format are rejected where the base's own have names that transformers does not look for.
    """
    opened = any(file.name in (*WEIGHTS.values(), INDEX) for file in context.predicate.base_files)
    for name in _beside_base(context):
        lower = name.lower()
        if lower.endswith((".safetensors", INDEX_ENDING)) or lower in _ADAPTERS:
            reason = "beside the base's files, and a loader may use it in their place; move it out of the base's folder"
            yield Problem("base_strays", reason, name)
        elif lower.endswith(CONTAINERS) and not opened:
            reason = f"transformers opens it, as the base has no {WEIGHTS['full']}; move it out of the base's folder"
            yield Problem("base_strays", reason, name)


def base_notes(context: CheckContext) -> Iterator[str]:
    """What lies beside the base's files and is read only where a loader is asked to."""
    beside = _beside_base(context) if context.base is not None else []
    if formats := [name for name in beside if name.lower().endswith(CONTAINERS)]:
        yield (
            f"weights in other formats beside the base's files: {some(formats)}; a loader prefers the safetensors "
            "files, which were compared, unless the caller requests the others"
        )
    if code := [name for name in beside if name.lower().endswith(CODE)]:
        yield (
            f"code beside the base's files: {some(code)}; it was not run, and a loader that is allowed to run it "
            "(trust_remote_code) may make another model of the same bytes"
        )


def _beside_base(context: CheckContext) -> list[str]:
    """The files in the base's folder that the statement does not list."""
    return sorted(base_of(context).files - {file.name for file in context.predicate.base_files})


def _base_tensors_once(context: CheckContext) -> Iterator[Problem]:
    """Rejects a tensor name that two files of the base hold."""
    yield from _repeated("base_tensors_once", base_of(context))


def _base_tensors(context: CheckContext) -> Iterator[Problem]:
    """Rejects tensors of the base that differ from their rows in name, dtype, shape or bytes."""
    readings = [row.base for row in context.predicate.rows if row.base]
    yield from _compare_tensors("base_tensors", readings, base_of(context).tensors(), "base")


RESULT_CHECKS: dict[str, Check] = {
    "no_links": _no_links,
    "no_folders": _no_folders,
    "nothing_missing": _nothing_missing,
    "nothing_extra": _nothing_extra,
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
