"""Rows whose three names belong together are accepted, and forged pairs are rejected by name."""

from pathlib import Path

import pytest

from app.evidence.format.statement import Row
from tests.tamper.kit import World, adapter_rows, adapter_world, forged, readings, row_of


def problems(world: World, rows: tuple[Row, ...]) -> dict[str, set[str | None]]:
    """Subjects of the problems, by check."""
    world.sign(world.predicate(rows=rows))
    found: dict[str, set[str | None]] = {}
    for problem in world.verify(1).problems:
        found.setdefault(problem.check, set()).add(problem.subject)
    return found


def test_one_prefix_for_all_names_is_accepted(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert problems(world, world.rows()) == {}


def test_two_tensors_compared_with_each_other_need_more_than_one_prefix(tmp_path: Path) -> None:
    """The pairs that were left alone have the prefix `bert.`, the swapped ones have none."""
    world = World(tmp_path)
    rows = world.rows()
    first, second = (row_of(rows, f"bert.enc.{n}.w") for n in (0, 1))
    rows = forged(forged(rows, first.name, base=second.base), second.name, base=first.base)
    assert problems(world, rows)["base_names"] == {None}


def test_a_live_name_that_is_not_the_stored_one_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = tuple(row._replace(name="bert.enc.9.w") if row.name == "bert.enc.1.w" else row for row in world.rows())
    assert problems(world, rows)["live_names"] == {"bert.enc.9.w"}


@pytest.mark.parametrize("end", ["gamma", "beta"])
def test_a_name_that_transformers_renames_is_the_same_tensor(end: str, tmp_path: Path) -> None:
    """An old base calls a LayerNorm's weight gamma; the result has the new name."""
    world = World(tmp_path)
    new = {"gamma": "weight", "beta": "bias"}[end]
    kept = world.base_weights["model.safetensors"].pop("enc.0.b")
    world.base_weights["model.safetensors"][f"enc.0.LayerNorm.{end}"] = kept
    result = world.result_weights["model.safetensors"]
    result[f"bert.enc.0.LayerNorm.{new}"] = result.pop("bert.enc.0.b")
    world.write()
    base = readings(world.base)[f"enc.0.LayerNorm.{end}"]
    rows = tuple(
        row._replace(base=base, role="frozen", initial=None, mechanism="requires_grad", changed=False)
        if row.name == f"bert.enc.0.LayerNorm.{new}"
        else row
        for row in world.rows()
        if row.name != f"enc.0.LayerNorm.{end}"
    )
    assert problems(world, rows) == {}


@pytest.mark.parametrize(("moved", "accepted"), [("", True), ("enc.1", False)])
def test_an_adapter_over_the_language_model_inside_its_base(moved: str, accepted: bool, tmp_path: Path) -> None:
    """The base's names have a prefix that the live ones lack, and these have peft's: the same for all, or none."""
    world = adapter_world(tmp_path)
    names = {row.base.name: row.name for row in adapter_rows(world) if row.base}
    stored = world.base_weights["model.safetensors"]
    for name in [name for name in stored if moved in name]:
        stored[f"language_model.{name}"] = stored.pop(name)
    world.write()
    rows = tuple(
        row._replace(name=names[row.base.name.removeprefix("language_model.")]) if row.base else row
        for row in adapter_rows(world)
    )
    world.sign(world.predicate(rows=rows, result_kind="adapter"))
    assert ("live_names" not in {problem.check for problem in world.verify(1).problems}) is accepted
