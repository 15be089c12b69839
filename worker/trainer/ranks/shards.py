"""One model over all ranks, each holding a part of every tensor (FSDP2); and whole tensors to parts and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worker.trainer.ranks.group import Group


def shard(model: nn.Module, group: Group, device: torch.device) -> None:
    """In place: names stay. Layers of a list are gathered one at a time, the rest of the model as a whole."""
    # Imported here: it takes a second, and most jobs train on one device.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (group.size,))
    for layer in layers(model):
        fully_shard(layer, mesh=mesh)
    # Left to itself, the outermost part would stay whole after an evaluation, where shards are looked for.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by the whole step's weight already: gradients are to be added, and not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def layers(model: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules: a transformer's blocks."""
    found: list[nn.Module] = []
    inside: set[str] = set()
    for path, module in model.named_modules():
        if any(path.startswith(f"{each}.") for each in inside):
            continue
        if isinstance(module, nn.ModuleList):
            inside.add(path)
            found += [each for each in module if any(True for _ in each.parameters())]
    return list(dict.fromkeys(found))  # some models use one layer several times


def spread(tensor: Tensor, *, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, as `like` has it; the tensor itself where `like` is not sharded."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    # Every rank has read the whole: nothing is to be sent.
    return distribute_tensor(tensor.to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
