"""The processes that train one job together, and how they agree. A single process is a group of one.

Only numbers, JSON and tensors in safetensors' format travel between them, so nothing that is received can run code.
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

TIMEOUT = timedelta(hours=1)  # for a rank that does not answer; the supervisor's watchdog acts earlier


@dataclass(frozen=True, slots=True)
class Group:
    """This process's rank among `size`. All ranks must call every method together, but `share`, `passes` and `deal`."""

    rank: int = 0
    size: int = 1
    strategy: Strategy = "ddp"

    @property
    def leads(self) -> bool:
        """Whether this is the first rank, which reports, saves and exports for all."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        return self.size > 1 and self.strategy == "fsdp"

    def share(self, positions: Positions) -> Positions:
        """This rank's part of a step's examples, a stretch of neighbours; the first ranks may have one more."""
        return positions if self.size == 1 else np.array_split(positions, self.size)[self.rank]

    def passes(self, positions: Positions, size: int) -> list[tuple[Positions, bool]]:
        """This rank's share in parts of `size`, each with whether it counts.

        A pass over shards needs all ranks, so a rank with fewer parts than another adds some that do not count.
        """
        mine = self.share(positions)
        parts = [(mine[start : start + size], True) for start in range(0, len(mine), size)]
        if not self.sharded:
            return parts
        most = -(-len(np.array_split(positions, self.size)[0]) // size)
        return parts + [(positions[:1], False)] * (most - len(parts))

    def deal(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """This rank's items, every `size`-th one, each with whether it counts (see `passes`)."""
        everything = list(items)
        for start in range(0, len(everything), self.size):
            if start + self.rank < len(everything):
                yield everything[start + self.rank], True
            elif self.sharded:
                yield everything[start], False

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        totals: list[float] = summed.tolist()
        return totals

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return self.total([float(flag)])[0] > 0 if self.size > 1 else flag

    def now(self) -> float:
        """The first rank's clock in seconds, so that all ranks decide alike about what depends on time."""
        return self.total([time.monotonic() if self.leads else 0.0])[0]

    def turn(self, *, stop: bool) -> tuple[bool, float]:
        """`any(stop)` and `now()` in one exchange, since they are needed after every step."""
        asked, now = self.total([float(stop), time.monotonic() if self.leads else 0.0])
        return asked > 0, now

    def gather(self, value: Any) -> list[Any]:
        """Each rank's value, by rank. `value` is JSON."""
        if self.size == 1:
            return [value]
        return [json.loads(message) for message in _exchange(json.dumps(value).encode(), self.size)]

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Each rank's tensors, on the CPU."""
        if self.size == 1:
            return [dict(tensors)]
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return [load(message) for message in _exchange(save(plain), self.size)]

    def follow(self, value: T) -> T:
        """The first rank's value. `value` is JSON."""
        leading: T = self.gather(value if self.leads else None)[0]
        return leading


ALONE = Group()


@contextmanager
def joined(order: WorkOrder) -> Iterator[Group]:
    """The group described by torchrun's environment variables, or this process alone without them."""
    if "RANK" not in os.environ:
        yield ALONE
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _join(rank, size, _device(order, local))
    yield Group(rank, size, "fsdp" if order.strategy == "fsdp" else "ddp")
    # Not in a finally clause: a rank that leaves because of an error must not wait for the others.
    dist.destroy_process_group()


def _device(order: WorkOrder, local: int) -> torch.device | None:
    """This rank's own GPU, made the current device; None on the CPU."""
    cuda = order.device.startswith("cuda") or (order.device == "auto" and torch.cuda.is_available())
    if not cuda:
        return None
    if local >= torch.cuda.device_count():
        message = f"{local + 1} processes on this machine, and {torch.cuda.device_count()} CUDA devices"
        raise InvalidRequest(message, param="resources.devices")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _join(rank: int, size: int, device: torch.device | None) -> None:
    # Small numbers are exchanged over the CPU, also with GPUs, so that no kernel has to be waited for.
    backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
    where = f"file://{os.environ[STORE]}" if STORE in os.environ else "env://"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=TIMEOUT, device_id=device)


def _exchange(message: bytes, size: int) -> list[bytes]:
    """Every rank's message, by rank."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(message)]))
    longest = max(int(length.item()) for length in lengths)

    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    received = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(received, padded)
    return [bytes(data[: int(length.item())].numpy()) for data, length in zip(received, lengths, strict=True)]
