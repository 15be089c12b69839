"""Ranks of a gloo group: processes that fork off a test."""

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tests.patience import PATIENCE
from tests.servers import free_port

Work = Callable[[int], Any]


def on_ranks(work: Work, *, ranks: int = 2) -> list[Any]:
    """What `work(rank)` returns in each process; every rank has to answer."""
    port = free_port()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_rank, args=(work, rank, ranks, port, answers)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        process.kill()
    found = {}
    while not answers.empty():
        rank, answer = answers.get()
        found[rank] = answer
    assert set(found) == set(range(ranks)), f"ranks {sorted(found)} of {ranks} answered"
    return [found[rank] for rank in range(ranks)]


def _rank(work: Work, rank: int, ranks: int, port: int, answers: Any) -> None:
    torch.set_num_threads(1)
    address, timeout = f"tcp://127.0.0.1:{port}", timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks, timeout=timeout)
    try:
        answers.put((rank, work(rank)))
    finally:
        dist.destroy_process_group()
