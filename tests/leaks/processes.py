"""Leaks between processes, played by two of them over gloo. Rows X1 to X4."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.leaks.gauntlet import BODY, Net, NormNet, Watch, backward, batch, control, leak, sgd
from tests.worker.trainer.gloo import on_ranks
from worker.trainer.witness import Violation, Witness

Found = Iterable[Violation]
Rank = Callable[[int, Watch], list[Violation]]


def both_ranks(play: Rank, watch: Watch) -> list[list[Violation]]:
    """What `play(rank, watch)` found in each of two processes that form a group."""
    budget = watch.keywords["budget"]  # type: ignore[attr-defined]
    return on_ranks(lambda rank: play(rank, partial(Witness, budget=budget)))


def wrap(rank: int, watch: Watch) -> list[Violation]:
    torch.manual_seed(rank)
    model = Net()
    model.body.requires_grad_(False)
    with watch(model, freeze=["body.**"]) as w:
        DistributedDataParallel(model)
        return w.check()


@leak("X1", moved=BODY, step=None)
def constructor_overwrites(watch: Watch) -> Found:
    """DDP's constructor sends rank 0's parameters, frozen ones too, to the others."""
    return both_ranks(wrap, watch)[1]


@control("X1 on rank 0")
def constructor_reads(watch: Watch) -> Found:
    """Rank 0 keeps its own bytes, though its version counters move."""
    return both_ranks(wrap, watch)[0]


def broadcast(rank: int, watch: Watch) -> list[Violation]:
    torch.manual_seed(0)
    model = NormNet(nn.BatchNorm1d(8))
    model.norm.requires_grad_(False)
    wrapped = DistributedDataParallel(model).eval()
    if rank == 1:
        model.norm.running_mean.fill_(3.0)
    with watch(wrapped, freeze=["norm.running_mean"]) as w:
        wrapped(batch(model, 1)).square().sum().backward()
        w.step()
        return list(w.report().violations)


@leak("X2", moved=["norm.running_mean"])
def buffers_broadcast(watch: Watch) -> Found:
    """broadcast_buffers overwrites rank 1's buffers before a forward pass, in eval too."""
    return both_ranks(broadcast, watch)[1]


def detached_here(rank: int, watch: Watch) -> list[Violation]:
    """The gradients are averaged, missing ones counted as zero: what one rank froze moves with the other's half."""
    torch.manual_seed(0)
    model = Net()
    model.body.requires_grad_(rank == 1)
    optimizer = sgd(model.parameters())
    with watch(model, freeze=["body.**"]) as w:
        for step in range(1, 3):
            backward(model, step)
            for parameter in model.parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(gradient)
                parameter.grad = gradient / 2 if parameter.requires_grad else None
                if not parameter.requires_grad:
                    parameter.data.sub_(gradient, alpha=0.025)
            optimizer.step()
            w.step()
        return list(w.report().violations)


@leak("X3", moved=BODY)
def detached_on_one_rank(watch: Watch) -> Found:
    """Frozen on rank 0 only: the averaged gradient moves it there as well."""
    return both_ranks(detached_here, watch)[0]


def shard(rank: int, watch: Watch) -> list[Violation]:
    torch.manual_seed(0)
    model = Net()
    model.body.requires_grad_(False)
    with watch(model, freeze=["body.**"]) as w:
        fully_shard(model.body)
        fully_shard(model)
        optimizer = sgd([parameter for parameter in model.parameters() if parameter.requires_grad])
        for step in range(1, 4):
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
            w.step()
        return list(w.report().violations)


@control("X4, FSDP2 wrapping")
def sharded(watch: Watch) -> Found:
    """FSDP2 puts shards in place of the tensors: new objects, the same bits on every rank."""
    found = both_ranks(shard, watch)
    return [*found[0], *found[1]]


def shard_and_write(rank: int, watch: Watch) -> list[Violation]:
    torch.manual_seed(0)
    model = Net()
    model.body.requires_grad_(False)
    with watch(model, freeze=["body.**"]) as w:
        fully_shard(model.body)
        w.step()
        if rank == 1:
            model.body.weight.to_local()[0, 0] = 7.0  # type: ignore[attr-defined]
        w.step()
        return list(w.report().violations)


@leak("X4 written", moved=["body.weight"], step=2)
def shard_written(watch: Watch) -> Found:
    """A write to one rank's shard of a frozen tensor is seen on that rank."""
    found = both_ranks(shard_and_write, watch)
    assert found[0] == []
    return found[1]
