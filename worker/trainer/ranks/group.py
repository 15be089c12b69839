"""The processes that train one job together, and what they must agree on. One process is a group of its own.

What is said between them is numbers, JSON and tensors in safetensors' form: nothing that is read could run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from app.errors import InvalidRequest
from worker.protocol import WorkOrder
from worker.trainer.data.sampler import Positions
from worker.trainer.ranks.launch import STORE

T = TypeVar("T")
Strategy = Literal["ddp", "fsdp"]

PATIENCE = timedelta(hours=1)  # with a rank that says nothing; the supervisor's own watchdog is quicker


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place among `size` of them. Every method but `share` is a call that all ranks make together."""

    rank: int = 0
    size: int = 1
    strategy: Strategy = "ddp"

    @property
    def leads(self) -> bool:
        """Whether this rank reports, saves and exports for all."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        return self.size > 1 and self.strategy == "fsdp"

    def share(self, positions: Positions) -> Positions:
        """This rank's part of a step's examples: neighbours stay together, and the first ranks have one more."""
        return positions if self.size == 1 else np.array_split(positions, self.size)[self.rank]

    def passes(self, positions: Positions, size: int) -> list[tuple[Positions, bool]]:
        """This rank's share, `size` at a time, and whether each part counts.

        Shards are gathered in each pass, so with them every rank makes as many passes as the one with the most.
        """
        mine = self.share(positions)
        parts = [(mine[at : at + size], True) for at in range(0, len(mine), size)]
        if not self.sharded:
            return parts
        most = -(-len(np.array_split(positions, self.size)[0]) // size)
        return parts + [(positions[:1], False)] * (most - len(parts))

    def deal(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """Every `size`-th item, and whether it counts; with shards, all ranks get as many (see `passes`)."""
        everything = list(items)
        for at in range(0, len(everything), self.size):
            if at + self.rank < len(everything):
                yield everything[at + self.rank], True
            elif self.sharded:
                yield everything[at], False

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        found: list[float] = summed.tolist()
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so on at least one rank."""
        return self.total([float(flag)])[0] > 0 if self.size > 1 else flag

    def now(self) -> float:
        """The first rank's clock, so that what depends on time is decided alike."""
        return self.total([time.monotonic() if self.leads else 0.0])[0]

    def turn(self, *, stop: bool) -> tuple[bool, float]:
        """Whether one is asked to stop, and the first rank's clock, at once: this is said after every step."""
        asked, now = self.total([float(stop), time.monotonic() if self.leads else 0.0])
        return asked > 0, now

    def gather(self, value: Any) -> list[Any]:
        """What each rank has to say, by rank. `value` is JSON."""
        if self.size == 1:
            return [value]
        return [json.loads(each) for each in _exchange(json.dumps(value).encode(), self.size)]

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Each rank's tensors, on the CPU."""
        if self.size == 1:
            return [dict(tensors)]
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return [load(each) for each in _exchange(save(plain), self.size)]

    def follow(self, value: T) -> T:
        """The first rank's value. `value` is JSON."""
        said: T = self.gather(value if self.leads else None)[0]
        return said


ALONE = Group()


@contextmanager
def joined(order: WorkOrder) -> Iterator[Group]:
    """The group that the environment names, as torchrun does; without it, this process alone."""
    if "RANK" not in os.environ:
        yield ALONE
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _join(rank, size, _device(order, local))
    yield Group(rank, size, "fsdp" if order.strategy == "fsdp" else "ddp")
    # Only after a good end: whoever leaves in an error must not wait for the others.
    dist.destroy_process_group()


def _device(order: WorkOrder, local: int) -> torch.device | None:
    """This rank's own GPU, made the current one; None on the CPU."""
    cuda = order.device.startswith("cuda") or (order.device == "auto" and torch.cuda.is_available())
    if not cuda:
        return None
    if local >= torch.cuda.device_count():
        message = f"{local + 1} processes on this machine, and {torch.cuda.device_count()} CUDA devices"
        raise InvalidRequest(message, param="resources.devices")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _join(rank: int, size: int, device: torch.device | None) -> None:
    # Small numbers go by way of the CPU, also beside GPUs: no kernel has to be waited for.
    backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
    where = f"file://{os.environ[STORE]}" if STORE in os.environ else "env://"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=PATIENCE, device_id=device)


def _exchange(message: bytes, size: int) -> list[bytes]:
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(message)]))
    longest = max(int(each.item()) for each in lengths)
    mine = torch.zeros(longest, dtype=torch.uint8)
    mine[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    heard = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(heard, mine)
    return [bytes(each[: int(length.item())].numpy()) for each, length in zip(heard, lengths, strict=True)]
