"""Training steps while the process keeps freed memory, beside the same steps while glibc gives it back.

Both by one run in one process, by turns, over the same batches; the median over rounds of the ratio of their times.
Page faults are those of a median step.
"""

from __future__ import annotations

import ctypes
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
KEPT, GIVEN_BACK = True, False


def figures() -> Iterable[Figure]:
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            yield from compared(case, Path(folder))


def compared(case: Case, folder: Path) -> Iterable[Figure]:
    run, stop = prepared(case, folder)
    run.model.train()
    rounds = []
    faults: dict[bool, list[int]] = {KEPT: [], GIVEN_BACK: []}
    with stop, run.watch.witness, run.writer:
        for turn in range(ROUNDS + 1):
            taken = {}
            for way in (KEPT, GIVEN_BACK) if turn % 2 else (GIVEN_BACK, KEPT):
                (memory.keep_freed if way is KEPT else give_back)()
                loop.update(run, 1)  # the first allocates anew
                taken[way], found = seconds(run, case.steps)
                faults[way] += found
            rounds.append(taken[GIVEN_BACK] / taken[KEPT])
    yield Figure(f"{case.name}: speed with freed memory kept over given back", statistics.median(rounds[1:]), "x")
    for way, name in ((KEPT, "kept"), (GIVEN_BACK, "given back")):
        yield Figure(f"{case.name}: page faults per step, {name}", statistics.median(faults[way]), "")


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
    libc = ctypes.CDLL(None)
    libc.mallopt(memory.M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(memory.M_TRIM_THRESHOLD, 64 << 20)
    libc.malloc_trim(0)
