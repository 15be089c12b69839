"""The multilinear hash of a sharded tensor: each rank sums over its own rows, then the ranks add up their sums.

The tensor is not gathered: the sums are a five-hundredth of its bytes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from worker.trainer.witness.multilinear import finish, level_one


def split_by_rows(tensor: Tensor) -> bool:
    """Whether each rank's shard is one stretch of the whole's bytes: dimension 0 split over one dimension of ranks."""
    if not isinstance(tensor, DTensor) or tensor.device_mesh.ndim != 1 or not tensor.ndim:
        return False
    (placement,) = tensor.placements
    return placement.is_shard(0)


def multilinear_of_shards(tensor: Tensor, secret: bytes) -> tuple[int, ...]:
    """The whole tensor's hash, the same on every rank; all ranks must call together."""
    assert isinstance(tensor, DTensor)
    mesh = tensor.device_mesh
    local = tensor.to_local().detach().contiguous()
    data = local.reshape(-1).view(torch.uint8)
    total = tensor.numel() * tensor.element_size()
    rows_per_rank = -(-tensor.shape[0] // mesh.size())  # the last ranks may have fewer
    start = min(rows_per_rank * mesh.get_local_rank(), tensor.shape[0])

    sums = level_one(data, secret, offset=start * (total // max(1, tensor.shape[0])), total=total)
    dist.all_reduce(sums, group=mesh.get_group())
    return finish(sums, secret)
