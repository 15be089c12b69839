"""Training steps while the process keeps freed memory, beside the same steps while glibc gives it back.

Both by one run in one process, by turns, over the same batches; the median over rounds of the ratio of their times.
Page faults are those of a median step.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.work import Case, cases, prepared
from worker.trainer.training import loop, memory

ROUNDS = 24


def figures() -> Iterable[Figure]:
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            yield from compared(case, Path(folder))


def compared(case: Case, folder: Path) -> Iterable[Figure]:
    run, stop = prepared(case, folder)
    run.state.model.train()
    rounds = []
    faults: dict[str, list[int]] = {way: [] for way in WAYS}
    with stop, run.witness.witness, run.checkpoints.writer:
        for turn in range(ROUNDS + 1):
            taken = {}
            for way in sorted(WAYS, reverse=bool(turn % 2)):
                WAYS[way]()
                loop.update(run, 1)  # the first allocates anew
                taken[way], counted = seconds(run, case.steps)
                faults[way] += counted
            rounds.append(taken["given back"] / taken["kept"])
    yield Figure(f"{case.name}: speed with freed memory kept over given back", statistics.median(rounds[1:]), "x")
    for way, found in faults.items():
        yield Figure(f"{case.name}: page faults per step, {way}", statistics.median(found))


def seconds(run: loop.Run, steps: int) -> tuple[float, list[int]]:
    """Of so many updates, and the page faults of each."""
    faults = [page_faults()]
    began = time.perf_counter()
    for step in range(1, steps + 1):
        loop.update(run, step)
        faults.append(page_faults())
    return time.perf_counter() - began, [after - before for before, after in pairwise(faults)]


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def give_back() -> None:
    """What glibc comes to by itself: 32 MiB for a block of its own, twice that for the end of the heap."""
    memory.thresholds(own_block=32 << 20, end_of_heap=64 << 20)
    memory.tidy()


WAYS = {"kept": memory.keep_freed, "given back": give_back}
