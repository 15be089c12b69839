"""Material is compared with the attestation before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.digest import sha256_file
from app.evidence.format.recipe import Recipe, SavedState
from app.evidence.format.statement import FileRef
from app.evidence.verifier.context import CannotCheck, Rejected
from tests.tamper import recipes
from tests.tamper.kit import World
from worker.reproduction.material import Material, drawn, refuse_other_material, segment_of


def made(world: World) -> tuple[Recipe, Material]:
    """An honest recipe of this world, and all that it names."""
    world.sign()
    data, state = world.root / "data.jsonl", world.root / "step-00000010"
    data.write_text("{}\n")
    state.mkdir()
    (state / "optimizer.safetensors").write_bytes(b"{}")
    files = (FileRef("optimizer.safetensors", 2, sha256_file(state / "optimizer.safetensors")),)
    observed = recipes.honest(world).observed._replace(
        training=FileRef("training", 3, sha256_file(data)),
        checkpoints=(SavedState(step=10, root="44" * 32, files=files),),
    )
    return recipes.honest(world)._replace(observed=observed), Material(training=data, base=world.base, checkpoint=state)


def test_what_the_recipe_names_is_accepted(tmp_path: Path) -> None:
    """Data, base and the state that a segment starts from."""
    world = World(tmp_path)
    recipe, material = made(world)
    refuse_other_material(material, recipe, world.predicate(), segment_of(recipe, 1))


@pytest.mark.parametrize(
    "name", ["data.jsonl", "base/model.safetensors", "base/config.json", "step-00000010/optimizer.safetensors"]
)
def test_one_other_byte_is_named(tmp_path: Path, name: str) -> None:
    """In any of the files, with both digests."""
    world = World(tmp_path)
    recipe, material = made(world)
    predicate = world.predicate()
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Rejected) as refused:
        refuse_other_material(material, recipe, predicate, segment_of(recipe, 1))
    assert refused.value.problems[0].expected != refused.value.problems[0].actual


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": None}, "--base is needed"),
        ({"base": Path("/nowhere")}, "is missing"),
        ({"training": Path("/nowhere/data")}, "No such file"),
        ({"checkpoint": None}, "--checkpoint is needed: the folder of the state after step 10"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """It cannot be checked then, which is no rejection."""
    world = World(tmp_path)
    recipe, material = made(world)
    with pytest.raises(CannotCheck, match=named):
        refuse_other_material(replace(material, **change), recipe, world.predicate(), segment_of(recipe, 1))


def test_a_file_that_the_job_did_not_have_is_refused(tmp_path: Path) -> None:
    """A validation file would change which examples are trained on."""
    world = World(tmp_path)
    recipe, material = made(world)
    with pytest.raises(Rejected, match="no validation file"):
        refuse_other_material(replace(material, validation=material.training), recipe, world.predicate(), None)


def test_segments_lie_between_checkpoints(tmp_path: Path) -> None:
    """One more than there are checkpoints: from the base, and to the end."""
    recipe, _ = made(World(tmp_path))
    first, last = segment_of(recipe, 0), segment_of(recipe, 1)
    assert (first.start, first.stop) == (None, recipe.observed.checkpoints[0])
    assert (last.start, last.stop) == (recipe.observed.checkpoints[0], None)
    with pytest.raises(CannotCheck, match="0 to 1"):
        segment_of(recipe, 2)


def test_only_a_torch_model_without_weights_is_drawn(tmp_path: Path) -> None:
    """Any other base has to be given."""
    recipe, _ = made(World(tmp_path))
    assert not drawn(recipe)
    observed = recipe.observed._replace(base_origin={"kind": "initial", "model": "init:1"})
    request = recipe.request._replace(model={"type": "torch", "architecture": "affine"})
    assert drawn(recipe._replace(observed=observed, request=request))
