"""Compares what was trained again with what the attestation says: bits, and where they differ how far."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.evidence.diff.changes import compare
from app.evidence.diff.diff import DiffError, open_model
from app.evidence.format.digest import TensorReading, read_file, sha256_file
from app.evidence.format.modules import within
from app.evidence.format.recipe import Recipe, SavedState
from app.evidence.format.statement import FileRef, Predicate, Reading
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.format.tree import root
from app.evidence.verifier.context import CannotCheck, Problem
from app.jsontypes import JsonDict
from worker.protocol import Workspace
from worker.reproduction.material import STATE, Segment
from worker.reproduction.rerun import Rerun

#: What the trainer said that a run of the same recipe says again.
WORDS: Final = ("steps", "totalSteps", "resultStep", "tokens", "flops", "examples", "padding", "prefix")
SHOWN: Final = 5  # tensors that are named


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two versions of one tensor are apart. None where the dtype has no such figure."""

    name: str
    changed: int
    elements: int
    relative_l2: float | None
    max_abs: float | None
    max_ulp: int | None


def other_words(recipe: Recipe, run: Rerun) -> Iterator[Problem]:
    """What the trainer said of its run that does not come out again, and an end that nothing explains."""
    reported: JsonDict = {"steps": recipe.reported.steps, "totalSteps": recipe.reported.total_steps}
    reported |= {"resultStep": recipe.reported.result_step}
    reported |= {"tokens": recipe.reported.tokens, "flops": recipe.reported.flops}
    reported |= {"padding": recipe.reported.padding, "prefix": recipe.reported.prefix}
    examples = recipe.reported.examples
    reported["examples"] = {"count": examples.count, "root": examples.root} if examples else None
    for name in WORDS:
        if reported[name] is not None and reported[name] != run.word.get(name):
            yield Problem(
                "word", f"the trainer reported other {name}", None, str(reported[name]), str(run.word.get(name))
            )
    for name, value in recipe.reported.hyperparameters.items():
        again = run.word.get("hyperparameters", {}).get(name)
        if value != again and name != "max_run_seconds":
            yield Problem("word", f"the trainer reported another {name}", None, str(value), str(again))
    steps, total = recipe.reported.steps, run.word.get("totalSteps")
    requested = recipe.request.hyperparameters
    may_end = requested.get("max_run_seconds") or requested.get("early_stopping_patience")
    if steps is not None and total is not None and steps < total and not may_end:
        yield Problem("word", f"the run ended after {steps} of {total} steps, and nothing in the request lets it")


def other_tensors(predicate: Predicate, run: Rerun, base_files: tuple[FileRef, ...]) -> list[Problem]:
    """The result's tensors that came out with other bytes, dtype or shape, in the statement's order."""
    found = _result(run.workspace, base_files)
    problems = []
    for row in predicate.rows:
        wanted = row.result
        if wanted is None:
            continue
        again = found.pop(wanted.name, None)
        if again is None:
            problems.append(Problem("tensors", "is not in what was trained again", wanted.name))
        elif not wanted.same(again):
            problems.append(Problem("tensors", wanted.difference(again), wanted.name, wanted.sha256, again.sha256))
    problems += [Problem("tensors", "is not in the attestation", name) for name in sorted(found)]
    return problems


def other_state(run: Rerun, stop: SavedState) -> list[Problem]:
    """The parts of a checkpoint's state that came out otherwise."""
    folder = run.workspace.checkpoints / f"step-{stop.step:08d}"
    if not folder.is_dir():
        return [Problem("state", f"the run made no checkpoint after step {stop.step}")]
    problems = []
    weights = root(read_file(folder / "model.safetensors", whole=False).tensors)
    if weights != stop.root:
        problems.append(Problem("state", f"other weights after step {stop.step}", None, stop.root, weights))
    again = {file.name: sha256_file(folder / file.name) for file in stop.files if file.name in STATE}
    problems += [
        Problem("state", f"after step {stop.step}", file.name, file.sha256, again[file.name])
        for file in stop.files
        if again.get(file.name, file.sha256) != file.sha256
    ]
    return problems


def compared(recipe: Recipe, predicate: Predicate, run: Rerun, segment: Segment | None) -> list[Problem]:
    """All differences from the attestation, of the whole run or of one segment."""
    if segment is not None and segment.stop is not None:
        return other_state(run, segment.stop)
    problems = other_tensors(predicate, run, predicate.base_files)
    return [*problems, *other_words(recipe, run)]


def distances(result: Path, run: Rerun) -> Iterator[Distance]:
    """How far the trained tensors are from those in the folder of the result, by name. Raises CannotCheck."""
    try:
        with ExitStack() as stack:
            before, after = (stack.enter_context(open_model(path)) for path in (result, run.workspace.changed))
            for name in sorted(after):
                one, other = before.get(name), after[name]
                if one is None or (one.dtype, one.shape) != (other.dtype, other.shape):
                    continue
                change = compare(one.source, other.source, dtype=one.dtype, shape=one.shape, ranks=False)
                yield Distance(
                    name, change.changed, change.elements, change.relative_l2, change.max_abs, change.max_ulp
                )
    except (DiffError, TensorFileError, OSError) as error:
        raise CannotCheck(f"--result: {error}") from None


def farthest(found: list[Distance]) -> float | None:
    """The largest relative distance; None where no tensor has one."""
    known = [one.relative_l2 for one in found if one.relative_l2 is not None and math.isfinite(one.relative_l2)]
    return max(known, default=None)


def _result(workspace: Workspace, base_files: tuple[FileRef, ...]) -> dict[str, Reading]:
    """The tensors of the result that was trained again, by name: changed ones, and the base's for the rest."""
    document: Mapping[str, Any] = json.loads(workspace.result.read_bytes())
    changed = {one.name: one for one in read_file(workspace.changed, whole=False).tensors}
    base = {one.name: one for file in _weights(workspace, base_files) for one in file}
    found: dict[str, Reading] = {}
    for each in document["tensors"]:
        source = changed[each["name"]] if each["from"] == "changed" else base[each["base_name"]]
        found[each["name"]] = Reading(each["name"], source.dtype, source.shape, source.nbytes, source.sha256)
    return found


def _weights(workspace: Workspace, base_files: tuple[FileRef, ...]) -> Iterator[tuple[TensorReading, ...]]:
    for file in base_files:
        if file.name.endswith(".safetensors"):
            yield within(read_file(workspace.base / file.name, whole=False), file.name).tensors
