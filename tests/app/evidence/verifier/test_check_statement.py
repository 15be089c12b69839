"""Rows and totals that contradict each other are rejected, and the problem says which row."""

from pathlib import Path

import pytest

from tests.tamper.kit import World, forged, row_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_flag_that_lies_is_named_with_its_tensor(world: World) -> None:
    world.sign(world.predicate(rows=forged(world.rows(), "bert.emb.weight", changed=False)))
    (problem,) = world.verify(1).problems
    assert (problem.check, problem.subject) == ("changed_flags", "bert.emb.weight")
    assert problem.reason == "'changed' is false, but its readings show the opposite"


def test_a_count_that_is_not_the_rows_gives_both_numbers(world: World) -> None:
    world.sign(document=lambda top: top["predicate"]["frozen"].update(count=40))
    (problem,) = world.verify(1).problems
    assert problem.check == "frozen_total"
    assert "40 tensors" in problem.reason
    assert "4 tensors" in problem.reason


def test_a_size_that_does_not_follow_from_the_shape_is_named(world: World) -> None:
    base = row_of(world.rows(), "bert.enc.0.w").base
    assert base is not None
    world.sign(world.predicate(rows=forged(world.rows(), "bert.enc.0.w", base=base._replace(nbytes=1))))
    sizes = [problem for problem in world.verify(1).problems if problem.check == "sizes"]
    assert [problem.reason for problem in sizes] == ["F32 of shape [8, 8] does not take 1 bytes"]
