"""Mechanisms on a model that FSDP2 has sharded, in a process group of one that forked off."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from app.errors import PolicyError
from tests.worker.trainer.freeze.training import plan_for
from tests.worker.trainer.gloo import on_ranks
from worker.trainer.freeze.apply import freeze
from worker.trainer.witness.observe import observe


def in_a_group(work: Callable[[], Any]) -> Any:
    """What `work` returns in a process of its own that is the only rank of a group."""
    (found,) = on_ranks(lambda rank: work(), ranks=1)
    return found


def trained(mechanism: str, *, shard: bool) -> dict[str, str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    plan = plan_for(model, {"freeze": ["1.**"], "mechanism": mechanism})
    before = observe(model)
    if shard:
        for layer in (*model, model):
            fully_shard(layer)
    frozen = freeze(model, plan)
    optimizer = torch.optim.AdamW(frozen.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(3):
        torch.manual_seed(step)
        model(torch.randn(3, 4)).square().sum().backward()
        assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("1."))
        optimizer.step()
        optimizer.zero_grad()
    after = observe(model)
    assert all((after[name] == before[name]) == name.startswith("1.") for name in after)
    return after


@pytest.mark.parametrize("mechanism", ["requires_grad", "detach", "param_group"])
def test_sharded_training_ends_with_the_same_bits(mechanism: str) -> None:
    """Frozen after sharding, every mechanism keeps the frozen layer and trains the others as without shards."""
    assert in_a_group(lambda: trained(mechanism, shard=True)) == trained(mechanism, shard=False)


def rows_of_a_shard() -> str:
    model = nn.Embedding(6, 4)
    rule = {"action": "freeze", "select": {"name": "weight", "rows": [[0, 4]]}}
    plan = plan_for(model, {"rules": [rule]})
    fully_shard(model)
    try:
        freeze(model, plan)
    except PolicyError as error:
        return error.message
    return "accepted"


def test_rows_of_a_sharded_tensor_are_refused() -> None:
    """A shard's rows are not the tensor's."""
    assert "cannot be frozen while it is sharded" in in_a_group(rows_of_a_shard)
