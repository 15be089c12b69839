"""Claims about frozen tensors where the result is an adapter."""

from dataclasses import replace
from pathlib import Path

from tests.tamper.kit import (
    adapter_rows,
    adapter_world,
)


def test_an_adapter_leaves_the_base_where_it_is(tmp_path: Path) -> None:
    """The result holds the adapter alone; frozen tensors are the base's own, and are not said to be in the result."""
    world = adapter_world(tmp_path)
    predicate = world.predicate(rows=adapter_rows(world), result_kind="adapter")
    world.sign(predicate)
    for level in (1, 2, 3):
        report = world.verify(level)
        assert report.problems == ()
        assert report.level == level
    assert report.facts["frozen"]["tensors"] == 6
    world.sign(replace(predicate, result_kind="full"))
    assert {problem.check for problem in world.verify(1).problems} >= {"frozen_is_identical"}
