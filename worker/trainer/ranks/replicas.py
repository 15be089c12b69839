"""Checks that all replicas of a model hold the same bytes: before the first step, at checkpoints and at the end."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from app.errors import PermafrostError
from worker.trainer.ranks.group import Group
from worker.trainer.witness.fingerprint import Fingerprints, sharded


def common_secret(group: Group) -> bytes:
    """A secret for fingerprints that all ranks share."""
    return bytes.fromhex(group.follow(Fingerprints().secret.hex()))


class ReplicasDiffer(PermafrostError):
    """The ranks of a job no longer hold the same model."""

    code = "ranks_apart"


def refuse_different_replicas(group: Group, live: Mapping[str, Tensor], *, step: int) -> None:
    """ReplicasDiffer names the first tensor that differs between ranks. Shards are left out."""
    if group.size == 1:
        return
    prints = Fingerprints(common_secret(group))
    mine = {name: str(prints.take(tensor)) for name, tensor in live.items() if not sharded(tensor)}
    first, *others = group.gather(mine)
    for rank, other in enumerate(others, 1):
        for name, fingerprint in first.items():
            if other.get(name) != fingerprint:
                when = f"after step {step}" if step else "before the first step"
                raise ReplicasDiffer(
                    f"'{name}' on rank {rank} is not what it is on rank 0, {when}: every rank of a job must hold the "
                    "same model",
                    param="resources",
                )
