"""Gradients of replicas, added up once a step over exactly the tensors that the optimizer has.

Not DistributedDataParallel: its reducer keeps the list of parameters that it met when it began, so it follows neither
schedules nor trainable rows, gives frozen tensors of `param_group` their gradients back, and its constructor and
`broadcast_buffers` overwrite what is frozen on all ranks but the first. Here nothing but gradients is ever written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worker.trainer.ranks.group import Group

BUCKET_BYTES = 64 << 20


def combine(group: Group, loss: float | None, parameters: Sequence[nn.Parameter]) -> float | None:
    """The step's loss over all ranks, None where one has none; every gradient becomes the sum over them.

    A tensor that got a gradient on one rank has one on all: the optimizer skips those that have none. Gradients of
    shards have been added up in the backward pass.
    """
    if group.size == 1:
        return loss
    have = [float(each.grad is not None) for each in parameters] if not group.sharded else []
    without, summed, *wanted = group.total([float(loss is None), loss or 0.0, *have])
    if without:
        return None
    for bucket in _buckets([each for each, ranks in zip(parameters, wanted, strict=False) if ranks]):
        _reduce(bucket)
    return summed


def _reduce(bucket: Sequence[nn.Parameter]) -> None:
    flat = torch.cat([_gradient(each).reshape(-1) for each in bucket])
    dist.all_reduce(flat)
    for each, part in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
        assert each.grad is not None
        each.grad.copy_(part.view_as(each.grad))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    elif parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()
    return parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In order, one dtype and device each, and not much larger than `BUCKET_BYTES`."""
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for each in parameters:
        kinds.setdefault((each.dtype, each.device), []).append(each)
    for members in kinds.values():
        bucket: list[nn.Parameter] = []
        size = 0
        for each in members:
            bucket.append(each)
            size += each.numel() * each.element_size()
            if size >= BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket
