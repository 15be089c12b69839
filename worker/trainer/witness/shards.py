"""The multilinear hash of a tensor that is cut over ranks: each adds up its own rows, and the sums are added together.

Nothing is gathered: what travels is a five-hundredth of the bytes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from worker.trainer.witness.multilinear import finish, level_one


def cut_by_rows(tensor: Tensor) -> bool:
    """Sharded over one dimension of ranks along dimension 0, so that each rank's bytes are a stretch of the whole's."""
    if not isinstance(tensor, DTensor) or tensor.device_mesh.ndim != 1 or not tensor.ndim:
        return False
    (placement,) = tensor.placements
    return placement.is_shard(0)


def multilinear_across(tensor: Tensor, secret: bytes) -> tuple[int, ...]:
    """The whole tensor's sums, on every rank; all of them have to ask together."""
    assert isinstance(tensor, DTensor)
    mesh = tensor.device_mesh
    local = tensor.to_local().detach().contiguous()
    data = local.reshape(-1).view(torch.uint8)
    total = tensor.numel() * tensor.element_size()
    each = -(-tensor.shape[0] // mesh.size())  # rows of all ranks but the last ones
    start = min(each * mesh.get_local_rank(), tensor.shape[0])
    sums = level_one(data, secret, offset=start * (total // max(1, tensor.shape[0])), total=total)
    dist.all_reduce(sums, group=mesh.get_group())
    return finish(sums, secret)
