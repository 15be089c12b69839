"""Adds up the gradients of all replicas once per step, for exactly the tensors that the optimizer has.

DistributedDataParallel is not used: its reducer keeps the list of parameters from its construction, so it follows
neither schedules nor trainable rows and gives tensors frozen by `param_group` their gradients back, and its constructor
and `broadcast_buffers` overwrite frozen tensors on all ranks but the first. Here only gradients are ever written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worker.trainer.ranks.group import Group

BUCKET_BYTES = 64 << 20


def combine(group: Group, loss: float | None, parameters: Sequence[nn.Parameter]) -> float | None:
    """The sum of the ranks' losses, or None if a rank has none; each gradient becomes the sum over all ranks.

    A tensor with a gradient on one rank gets one on every rank, since optimizers skip tensors without. The gradients
    of shards were added up in the backward pass already.
    """
    if group.size == 1:
        return loss

    has_gradient = [float(parameter.grad is not None) for parameter in parameters] if not group.sharded else []
    without_loss, total, *ranks_with_gradient = group.total([float(loss is None), loss or 0.0, *has_gradient])
    if without_loss:
        return None

    reduced = [parameter for parameter, ranks in zip(parameters, ranks_with_gradient, strict=False) if ranks]
    for bucket in _buckets(reduced):
        _reduce(bucket)
    return total


def _reduce(bucket: Sequence[nn.Parameter]) -> None:
    flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in bucket])
    dist.all_reduce(flat)
    parts = torch.split(flat, [parameter.numel() for parameter in bucket])
    for parameter, part in zip(bucket, parts, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(part.view_as(parameter.grad))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    elif parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()
    return parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in order, in groups of one dtype and device, each not much larger than `BUCKET_BYTES`."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        by_kind.setdefault((parameter.dtype, parameter.device), []).append(parameter)

    for members in by_kind.values():
        bucket: list[nn.Parameter] = []
        size = 0
        for parameter in members:
            bucket.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket
