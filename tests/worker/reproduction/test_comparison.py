"""What was trained again is compared by bytes, and the trainer's word by what a second run says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.evidence.format.digest import read_file, sha256_file
from app.evidence.format.recipe import Recipe, SavedState
from app.evidence.format.statement import FileRef
from app.evidence.format.tree import root
from tests.tamper import recipes
from tests.tamper.kit import World, file_bytes, flipped
from worker.protocol import Workspace
from worker.reproduction.comparison import compared, distances, farthest, other_state, other_tensors, other_words
from worker.reproduction.rerun import Rerun


def trained(world: World, folder: Path, word: dict[str, Any] | None = None) -> Rerun:
    """A workspace as a trainer leaves it that made this world's result."""
    place = Workspace(folder).create()
    (place.base / "model.safetensors").write_bytes((world.base / "model.safetensors").read_bytes())
    tensors = world.result_weights["model.safetensors"]
    place.changed.write_bytes(file_bytes({name: each for name, each in tensors.items() if "enc" not in name}))
    entries = [
        {"name": name, "from": "base", "base_name": name.removeprefix("bert.")}
        if "enc" in name
        else {"name": name, "from": "changed", "base_name": None}
        for name in tensors
    ]
    place.result.write_text(json.dumps({"tensors": entries}))
    return Rerun(place, {}, word or {})


def test_the_same_tensors_are_no_difference(tmp_path: Path) -> None:
    """Changed ones and those that are the base's."""
    world = World(tmp_path / "world")
    run = trained(world, tmp_path / "run")
    assert other_tensors(world.predicate(), run, world.predicate().base_files) == []


def test_a_tensor_that_differs_is_named_and_measured(tmp_path: Path) -> None:
    """With both digests, and with its distance from the result at hand."""
    world = World(tmp_path / "world")
    predicate = world.predicate()
    world.edit_result("head.w", lambda t: (t[0], t[1], flipped(t[2], 2)))
    run = trained(world, tmp_path / "run")
    [problem] = other_tensors(predicate, run, predicate.base_files)
    assert (problem.subject, problem.expected != problem.actual) == ("head.w", True)
    apart = list(distances(World(tmp_path / "honest").result, run))
    assert {one.name for one in apart if one.changed} == {"head.w"}
    assert farthest(apart)
    assert farthest([]) is None


def test_tensors_that_are_missing_or_more_are_named(tmp_path: Path) -> None:
    """On either side."""
    world = World(tmp_path / "world")
    predicate = world.predicate()
    tensors = world.result_weights["model.safetensors"]
    tensors["extra"] = tensors.pop("head.b")
    run = trained(world, tmp_path / "run")
    assert {one.subject for one in other_tensors(predicate, run, predicate.base_files)} == {"head.b", "extra"}


def recipe_of(world: World, **said: Any) -> Recipe:
    world.sign()
    recipe = recipes.honest(world)
    return recipe._replace(reported=replace(recipe.reported, examples=None, hyperparameters={"lr": 1}, **said))


def test_words_that_do_not_come_out_again_are_named(tmp_path: Path) -> None:
    """Steps, tokens and decided hyperparameters; a run that ended early where nothing lets it."""
    world = World(tmp_path / "world")
    recipe = recipe_of(world, steps=20, total_steps=20, tokens=640)
    again = {"steps": 20, "totalSteps": 20, "tokens": 640, "hyperparameters": {"lr": 1}}
    run = trained(world, tmp_path / "run", again)
    assert compared(recipe, world.predicate(), run, None) == []
    other = replace(run, word=again | {"tokens": 1, "hyperparameters": {"lr": 2}})
    assert [one.reason for one in other_words(recipe, other)] == [
        "the trainer reported other tokens",
        "the trainer reported another lr",
    ]
    back = recipe_of(world, steps=20, result_step=8)
    assert [one.reason for one in other_words(back, run)] == ["the trainer reported other resultStep"]
    early = recipe_of(world, steps=10)
    reached = replace(run, word=again | {"steps": 10})
    assert "ended after 10 of 20 steps" in next(other_words(early, reached)).reason


def test_a_state_is_compared_by_all_of_its_tensors(tmp_path: Path) -> None:
    """Not by its times, which are others in every run."""
    world = World(tmp_path / "world")
    run = trained(world, tmp_path / "run")
    folder = run.workspace.checkpoints / "step-00000004"
    assert "made no checkpoint" in other_state(run, SavedState(step=4, root="00" * 32, files=()))[0].reason
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.safetensors"):
        (folder / name).write_bytes(file_bytes(world.base_weights["model.safetensors"]))
    weights = root(read_file(folder / "model.safetensors").tensors)
    digest = sha256_file(folder / "optimizer.safetensors")
    files = (FileRef("optimizer.safetensors", 1, digest), FileRef("state.json", 1, "00" * 32))
    state = SavedState(step=4, root=weights, files=files)
    assert other_state(run, state) == []
    tampered = state._replace(root="00" * 32, files=(files[0]._replace(sha256="11" * 32),))
    assert len(other_state(run, tampered)) == 2
