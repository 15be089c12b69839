"""What a reproduction starts from: each file is compared with the attestation before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.evidence.format.digest import TensorReading, read_file, sha256_file
from app.evidence.format.modules import within
from app.evidence.format.recipe import Recipe, SavedState
from app.evidence.format.statement import FileRef, Predicate
from app.evidence.format.tensorfile import TensorFileError
from app.evidence.format.tree import root
from app.evidence.verifier.context import CannotCheck, Problem, Rejected

#: The parts of a state that are the same in every run of the same steps. `state.json` has times as well; counters and
#: generators in it would not lead to the recorded end if they were others.
STATE: Final = ("masters.safetensors", "model.safetensors", "optimizer.safetensors", "random.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Paths that the reader gave. `checkpoint` is the folder of the state that a segment starts from."""

    training: Path
    validation: Path | None = None
    base: Path | None = None
    adapter: Path | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The steps from one checkpoint (None: from the base) to the next one (None: to the end)."""

    number: int
    start: SavedState | None
    stop: SavedState | None


def segment_of(recipe: Recipe, number: int) -> Segment:
    """Segment `number`: 0 ends at the first checkpoint, the last one at the result. Raises CannotCheck."""
    states = recipe.observed.checkpoints
    if not 0 <= number <= len(states):
        raise CannotCheck(f"there is no segment {number}: the recipe has {len(states)} checkpoints, 0 to {len(states)}")
    start = states[number - 1] if number else None
    return Segment(number=number, start=start, stop=states[number] if number < len(states) else None)


def refuse_other_material(material: Material, recipe: Recipe, predicate: Predicate, segment: Segment | None) -> None:
    """Rejected where a file has other bytes than the recipe's; CannotCheck for one that is missing.

    The data first: it is small, and the likeliest mistake.
    """
    observed = recipe.observed
    for role, file in (
        ("training", observed.training),
        ("validation", observed.validation),
        ("adapter", observed.adapter),
    ):
        _refuse_other_file(role, getattr(material, role), file)
    if material.base is not None:
        _refuse_other_base(material.base, predicate, observed.base_root)
    elif not drawn(recipe):
        raise CannotCheck("--base is needed: the folder of the base model")
    if segment is not None:
        _refuse_other_state(material.checkpoint, segment.start)


def refuse_other_data(path: Path, recipe: Recipe) -> None:
    """Rejected where the training file has other bytes than the recipe's; CannotCheck where it is missing."""
    _refuse_other_file("training", path, recipe.observed.training)


def drawn(recipe: Recipe) -> bool:
    """Whether the base's weights were drawn from the seed, so that they can be drawn again."""
    model = recipe.request.model
    return (
        model.get("type") == "torch"
        and not model.get("weights")
        and (recipe.observed.base_origin or {}).get("kind") == "initial"
    )


def _refuse_other_file(role: str, given: Path | None, wanted: FileRef | None) -> None:
    option = _OPTIONS[role]
    if wanted is None:
        if given is not None:
            raise Rejected([Problem("material", f"{option}: the recipe has no {role} file", given.name)])
        return
    if given is None:
        raise CannotCheck(f"{option} is needed: the {role} file, SHA-256 {wanted.sha256}")
    found = _digest(given)
    if found != wanted.sha256:
        size = given.stat().st_size
        reason = f"{option}: not the {role} file of the recipe ({size} bytes, {wanted.size} in the recipe)"
        raise Rejected([Problem("material", reason, given.name, wanted.sha256, found)])


def _refuse_other_base(folder: Path, predicate: Predicate, wanted: str) -> None:
    tensors: list[TensorReading] = []
    for file in predicate.base_files:
        path = folder / file.name
        if not path.is_file():
            raise CannotCheck(f"--base: {path} is missing")
        if file.name.endswith(".safetensors"):
            tensors += _readings(path, file.name)
            continue
        found = _digest(path)
        if found != file.sha256:
            raise Rejected([Problem("material", "--base: not the base's file", file.name, file.sha256, found)])
    found = root(tensors)
    if found != wanted:
        raise Rejected([Problem("material", "--base: another base than the recipe's", None, wanted, found)])


def _refuse_other_state(folder: Path | None, state: SavedState | None) -> None:
    if state is None:
        if folder is not None:
            raise CannotCheck("--checkpoint: segment 0 starts from the base")
        return
    if folder is None:
        raise CannotCheck(f"--checkpoint is needed: the folder of the state after step {state.step}")
    for file in (one for one in state.files if one.name in STATE):
        path = folder / file.name
        found = _digest(path)
        if found != file.sha256:
            reason = f"--checkpoint: not the state after step {state.step}"
            raise Rejected([Problem("material", reason, file.name, file.sha256, found)])


def _readings(path: Path, name: str) -> tuple[TensorReading, ...]:
    try:
        return within(read_file(path, whole=False), name).tensors
    except (TensorFileError, OSError) as error:
        raise Rejected([Problem("material", f"--base: {error}", name)]) from None


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except (TensorFileError, OSError) as error:
        raise CannotCheck(f"{path}: {getattr(error, 'strerror', None) or error}") from None


_OPTIONS: Final[Mapping[str, str]] = {"training": "--data", "validation": "--validation", "adapter": "--adapter"}
