"""A recipe that is not as it should be is refused by the path of what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.fields import StatementError
from app.evidence.format.recipe import build
from app.evidence.format.recipe_reading import read, reported, unknown_fields, version_of
from tests.app.evidence.format.test_recipe import made


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda one: one["buildDefinition"].pop("buildType"), "buildType: missing"),
        (lambda one: one["buildDefinition"].update(buildType="urn:x:v2"), "another version: 'urn:x:v2'"),
        (lambda one: one["buildDefinition"]["externalParameters"].update(seed="7"), "seed: not a whole number"),
        (lambda one: one["buildDefinition"]["externalParameters"].update(model=[]), "model: not an object"),
        (lambda one: one["buildDefinition"]["resolvedDependencies"].pop(), None),
        (lambda one: one["buildDefinition"]["resolvedDependencies"].pop(0), "no 'base'"),
        (lambda one: one["buildDefinition"]["resolvedDependencies"].append({"name": "base"}), "'base' is there twice"),
        (lambda one: one["runDetails"]["metadata"].update(invocationId="ftjob-1"), "is not JOB/ATTEMPT"),
        (lambda one: one["runDetails"]["metadata"].update(invocationId="ftjob-2/1"), "about another job"),
        (
            lambda one: one["runDetails"]["metadata"].update(startedOn="yesterday"),
            "startedOn: 'yesterday' is not a time",
        ),
        (lambda one: one["runDetails"]["permafrost_observed"].update(crashes=-1), "crashes: not a whole number"),
        (
            lambda one: one["runDetails"]["permafrost_observed"]["checkpoints"][0].update(root="x"),
            "checkpoints[0].root: not a SHA-256",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: Callable[[Any], Any], named: str | None) -> None:
    """By its path; the lock alone may be absent."""
    document = json.loads(build(made(tmp_path)))
    change(document["predicate"])
    if named is None:
        assert read(document).observed.lock is None
        return
    with pytest.raises(StatementError) as refused:
        read(document)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        {"steps": True},
        {"loss": "low"},
        {"resumed": [1, "2"]},
        {"examples": {"count": 1}},
        {"exact": 1},
        {"notDeterministic": [1]},
        {"environment": []},
    ],
)
def test_a_wrong_word_of_the_trainer_is_refused(said: dict[str, Any]) -> None:
    """A field of another type than the recipe's."""
    with pytest.raises(StatementError, match=next(iter(said))):
        reported(said)


def test_unknown_fields_are_named_by_their_paths(tmp_path: Path) -> None:
    """Of our own parts and of the specification's: a recipe has what this version writes."""
    document = json.loads(build(made(tmp_path)))
    assert list(unknown_fields(document)) == []
    document["predicate"]["runDetails"]["permafrost_reported"]["mood"] = "good"
    document["predicate"]["buildDefinition"]["resolvedDependencies"][0]["uri"] = "x"
    assert [path.rpartition(".")[2] for path in unknown_fields(document)] == ["uri", "mood"]


def test_a_version_is_read_before_anything_else() -> None:
    """Also of a recipe of which nothing else is known."""
    assert version_of({"predicate": {"buildDefinition": {"buildType": "urn:permafrost:fine-tuning:v9"}}}).endswith("v9")
