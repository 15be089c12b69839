"""Shards a model over all ranks with FSDP2, and splits whole tensors in the same way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worker.trainer.ranks.group import Group


def shard(model: nn.Module, group: Group, device: torch.device) -> None:
    """Shard the model in place; names stay. Its layers are gathered one at a time, the rest as a whole."""
    # Imported here: it takes a second, and most jobs train on one device.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (group.size,))
    for layer in layers(model):
        fully_shard(layer, mesh=mesh)
    # By default the outermost part would stay whole after an evaluation, where the loop expects shards.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by the whole step's weight already, so gradients are added and not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def layers(model: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules: a transformer's blocks."""
    blocks: list[nn.Module] = []
    lists: set[str] = set()
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") for outer in lists):
            continue
        if isinstance(module, nn.ModuleList):
            lists.add(path)
            blocks += [block for block in module if any(True for _ in block.parameters())]
    return list(dict.fromkeys(blocks))  # some models use one layer several times


def spread(tensor: Tensor, *, like: Tensor) -> Tensor:
    """This rank's shard of a whole tensor, split as `like` is; the tensor itself if `like` is not sharded."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    # Every rank has read the whole, so nothing has to be sent.
    return distribute_tensor(tensor.to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
