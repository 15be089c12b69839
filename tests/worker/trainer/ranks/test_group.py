"""How ranks share examples, worked out without starting them."""

import numpy as np
import pytest

from worker.trainer.ranks.group import ALONE, Group


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("examples", [1, 7, 8])
def test_every_example_counts_on_one_rank(size: int, strategy: str, examples: int) -> None:
    """With shards all ranks make as many passes; the added ones do not count."""
    positions = np.arange(10, 10 + examples)
    ranks = [Group(rank, size, strategy).passes(positions, 2) for rank in range(size)]  # type: ignore[arg-type]
    counted = np.concatenate([part for passes in ranks for part, counts in passes if counts])
    assert sorted(counted) == sorted(positions)
    if strategy == "fsdp":
        assert len({len(passes) for passes in ranks}) == 1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_items_are_dealt_in_turns(strategy: str) -> None:
    ranks = [list(Group(rank, 2, strategy).deal("abcde")) for rank in range(2)]  # type: ignore[arg-type]
    assert [item for item, counts in ranks[0] if counts] == ["a", "c", "e"]
    assert [item for item, counts in ranks[1] if counts] == ["b", "d"]
    assert (len(ranks[0]) == len(ranks[1])) is (strategy == "fsdp")


def test_a_single_process_agrees_with_itself() -> None:
    assert ALONE.leads and not ALONE.sharded
    assert ALONE.total([1.5, 2.0]) == [1.5, 2.0]
    assert (ALONE.any(True), ALONE.gather("x"), ALONE.follow(3)) == (True, ["x"], 3)
    stop, now = ALONE.turn(stop=True)
    assert stop and now > 0
