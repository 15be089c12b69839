"""Why bits may differ here is said before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.recipe import Recipe
from tests.tamper import recipes
from tests.tamper.kit import World
from worker.reproduction.expectation import reasons, refuted

HERE: dict[str, Any] = {
    "torch": "2.13.0",
    "transformers": "5.0.0",
    "machine": "x86_64",
    "cpu": "AVX512",
    "processor": "one",
    "device": "cpu",
    "cuda": None,
    "threads": 2,
}


def made(root: Path, **said: Any) -> Recipe:
    world = World(root)
    world.sign()
    recipe = recipes.honest(world)
    hyperparameters = {"micro_batch_size": 8}
    values: dict[str, Any] = {
        "environment": HERE,
        "exact": True,
        "micro_batch_size": 8,
        "hyperparameters": hyperparameters,
    }
    return recipe._replace(reported=replace(recipe.reported, **(values | said)))


def test_the_same_place_gives_no_reason(tmp_path: Path) -> None:
    """Another number of threads is none: the trainer is given the run's."""
    assert list(reasons(made(tmp_path), environment=HERE | {"threads": 8}, code="22" * 32)) == []


@pytest.mark.parametrize("name", ["torch", "transformers", "machine", "cpu", "processor", "device", "cuda"])
def test_another_place_is_a_reason(tmp_path: Path, name: str) -> None:
    """Each part of the environment, with what it was and what it is."""
    [reason] = reasons(made(tmp_path), environment=HERE | {name: "other"}, code="22" * 32)
    assert f"{HERE[name]} then, other here" in reason


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"environment": {}}, "does not say in which environment"),
        ({"not_deterministic": ("scatter_add",), "exact": False}, "without a deterministic kernel: scatter_add"),
        ({"exact": False}, "another environment than the one that it had begun in"),
        ({"micro_batch_size": 4}, "micro-batches of 8 became 4"),
    ],
)
def test_a_run_that_could_not_be_exact_is_a_reason(tmp_path: Path, said: dict[str, Any], named: str) -> None:
    """By the trainer's own word."""
    recipe = made(tmp_path, **said)._replace(attempt=2)
    [reason] = reasons(recipe, environment=HERE, code="22" * 32)
    assert named in reason


def test_a_first_attempt_did_not_go_on_elsewhere(tmp_path: Path) -> None:
    """Whatever the trainer says of it: the supervisor counts attempts."""
    assert list(reasons(made(tmp_path, exact=False), environment=HERE, code="22" * 32)) == []


def test_an_operation_that_does_not_come_up_is_refuted(tmp_path: Path) -> None:
    """By the word of a run here; one that comes up stays a reason."""
    recipe = made(tmp_path, not_deterministic=("scatter_add", "cumsum"), exact=False)
    both = list(reasons(recipe, environment=HERE, code="22" * 32))
    assert list(refuted(recipe, {})) == both
    assert list(refuted(recipe, {"notDeterministic": ["cumsum"]})) == both[:1]


def test_other_code_is_a_reason(tmp_path: Path) -> None:
    """A version of ours in which a sum is taken in another order."""
    [reason] = reasons(made(tmp_path), environment=HERE, code="99" * 32)
    assert "other code" in reason
