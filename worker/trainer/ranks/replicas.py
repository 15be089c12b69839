"""Replicas of one model are to hold the same bytes: compared before the first step, at checkpoints, and at the end."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from app.errors import PermafrostError
from worker.trainer.ranks.group import Group
from worker.trainer.witness.fingerprint import Fingerprints, sharded


def common_secret(group: Group) -> bytes:
    return bytes.fromhex(group.follow(Fingerprints().secret.hex()))


class RanksApart(PermafrostError):
    """The ranks of a job no longer train the same model."""

    code = "ranks_apart"


def refuse_apart(group: Group, live: Mapping[str, Tensor], *, step: int) -> None:
    """RanksApart names the first tensor that is not the same on every rank. Shards are each rank's own."""
    if group.size == 1:
        return
    prints = Fingerprints(common_secret(group))
    mine = {name: str(prints.take(tensor)) for name, tensor in live.items() if not sharded(tensor)}
    told = group.gather(mine)
    for rank, other in enumerate(told[1:], 1):
        for name, found in told[0].items():
            if other.get(name) != found:
                when = f"after step {step}" if step else "before the first step"
                raise RanksApart(
                    f"'{name}' on rank {rank} is not what it is on rank 0, {when}: every rank of a job must hold the "
                    "same model",
                    param="resources",
                )
