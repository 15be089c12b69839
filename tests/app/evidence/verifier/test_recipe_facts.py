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
    loud, silent = (recipe_facts(one)["recipe"] for one in (recipe, recipe._replace(reported=Reported())))
    assert loud["observed"] == silent["observed"]
    assert loud["reported"]["steps"] == 20
    assert list(recipe_lines(silent))[-1].endswith("the trainer's word: nothing")


def test_a_result_of_an_earlier_step_is_named(tmp_path: Path) -> None:
    """Early stopping went back to it; the steps are those that were made."""
    recipe = made(tmp_path)
    early = recipe._replace(reported=replace(recipe.reported, result_step=7))
    last, back = (recipe_facts(one)["recipe"] for one in (recipe, early))
    assert (last["reported"]["result_step"], back["reported"]["result_step"]) == (20, 7)
    assert list(recipe_lines(back))[-1].endswith(", result of step 7")
    assert "result of step" not in list(recipe_lines(last))[-1]
