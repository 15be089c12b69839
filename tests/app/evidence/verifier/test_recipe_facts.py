"""The recipe in a report: nothing of the trainer's word among what the supervisor saw."""

from dataclasses import replace
from pathlib import Path

from app.evidence.format.recipe import Reported
from app.evidence.verifier.recipe_facts import recipe_facts, recipe_lines
from tests.app.evidence.format.test_recipe import made


def test_without_a_recipe_there_is_nothing() -> None:
    """A report of an attestation from before there were recipes has no such field."""
    assert recipe_facts(None) == {}


def test_words_of_the_trainer_are_apart(tmp_path: Path) -> None:
    """A trainer that says nothing leaves the observations as they are."""
    recipe = made(tmp_path)
    loud, silent = (recipe_facts(one)["recipe"] for one in (recipe, replace(recipe, reported=Reported())))
    assert loud["observed"] == silent["observed"]
    assert loud["reported"]["steps"] == 20
    assert list(recipe_lines(silent))[-1].endswith("the trainer's word: nothing")
