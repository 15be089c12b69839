"""Checks of a recipe: each one's attacks are in tests/tamper; here, what they let pass."""

from datetime import timedelta
from pathlib import Path

from app.evidence.format.envelope import seal
from app.evidence.format.keys import generate
from app.evidence.format.recipe import MEMBER, build
from app.evidence.verifier import check_recipe
from tests.tamper import recipes
from tests.tamper.kit import NOW, World


def test_one_of_several_signers_is_enough(tmp_path: Path) -> None:
    """During a rotation statement and recipe have two signatures, and a reader may know either key."""
    world = World(tmp_path)
    keys = [generate(), world.key]
    sealed = world.sign(keys=keys)
    world.publish(sealed | {MEMBER: seal(build(recipes.honest(world)), keys)})
    assert world.verify(1, require_recipe=True).verified


def test_clocks_may_differ_a_little(tmp_path: Path) -> None:
    """A run that ended a minute after its statement's date, by another clock."""
    world = World(tmp_path)
    recipes.sign(world, recipes.observing(world, finished_at=NOW + timedelta(minutes=1)))
    assert world.verify(1).verified


def test_every_check_says_what_it_rejects() -> None:
    """Its docstring is what the documentation of the checks has."""
    checks = {**check_recipe.ENVELOPE_CHECKS, **check_recipe.CHECKS}
    assert all((check.__doc__ or "").startswith("Rejects ") for check in checks.values())
    assert all(name.startswith("recipe_") for name in checks)
