"""The recipe's payload: SLSA Provenance v1, and the same recipe when it is read again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.evidence.format.recipe import Recipe, Reported, build
from app.evidence.format.recipe_reading import read
from app.evidence.format.statement import FileRef
from app.evidence.format.strict import read_json
from tests.tamper import recipes
from tests.tamper.kit import World


def made(root: Path) -> Recipe:
    world = World(root)
    world.sign()
    return recipes.honest(world)


def test_what_is_built_is_read(tmp_path: Path) -> None:
    """With all that a recipe may have, and with as little as possible."""
    full = made(tmp_path)
    observed = replace(full.observed, validation=FileRef("validation", 7, "aa" * 32), adapter=None, losses=2)
    said = replace(
        full.reported,
        loss=0.5,
        result_step=3,
        exact=False,
        not_deterministic=("a kernel",),
        resumed=(4,),
        environment={"threads": 1},
    )
    full = replace(full, observed=observed, reported=said)
    bare = replace(full, reported=Reported(), observed=replace(observed, validation=None, lock=None, base_origin=None))
    for recipe in (full, bare):
        found = read(read_json(build(recipe)))
        assert found == replace(recipe, subjects=tuple(sorted(recipe.subjects)))


def test_it_is_provenance_of_slsa(tmp_path: Path) -> None:
    """The fields that the specification requires, with its names; ours have a vendor's prefix, as it asks."""
    document: Any = json.loads(build(made(tmp_path)))
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, run = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    assert {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"} == set(definition)
    assert all(one["name"] and one["digest"] for one in definition["resolvedDependencies"])
    assert run["builder"]["id"]
    assert set(run) - {"builder", "metadata"} == {"permafrost_observed", "permafrost_reported"}
