"""Our training loop, with its witness and reports, beside a hand-written torch loop, the HF Trainer and Lightning.

The same model, examples, batches in the same order, optimizer (fused AdamW), clipping and schedule. All are timed from
a first step's begin to a last one's end: what a run does once, before and after, is in no figure. Rounds interleave in
every order that there is, each once: what one loop leaves to the next (freed memory, cold caches) falls on all alike. A
figure is the median over rounds of the ratio of steps per second, so that a busy machine slows all alike too.
Peak memory is that of a process which does nothing else, the median of three. The base's file is mapped; its pages are
clean, shared and the kernel's to drop, and the witness looks at all of them where a forward pass looks up some rows of
a vocabulary: so memory is also given without mapped files.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import torch

from benchmarks.alone import OURS, PEERS, measured
from benchmarks.figure import Figure
from benchmarks.loops import HAND, HF, Round, ours
from benchmarks.work import Case, Material, cases, gpu_cases, prepared

PROCESSES = 3


def figures() -> Iterable[Figure]:
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            yield from speed(case, Path(folder))
        yield from memory(case)
    yield from on_gpu()


def speed(case: Case, folder: Path) -> Iterable[Figure]:
    """Steps per second, all in one process."""
    run, stop = prepared(case, folder)
    given = Material(run.state.model, run.job.training, run.job.sampler)
    others = {name: make(replace(given, model=deepcopy(run.state.model)), case, folder) for name, make in PEERS.items()}
    with stop, run.witness.witness, run.checkpoints.writer:
        ways: dict[str, Round] = {OURS: ours(run, case)} | others
        for go in ways.values():
            go()  # warm caches, allocators and lazy imports
        rounds = [one_round(ways, order) for order in permutations(ways)]
    yield Figure(f"{case.name}: steps per second", statistics.median(each[OURS] for each in rounds), "1/s")
    for name in others:
        ratio = statistics.median(each[OURS] / each[name] for each in rounds)
        yield Figure(f"{case.name}: speed over {name}", ratio, "x", "0.97" if name == HAND else "1.0")


def one_round(ways: dict[str, Round], order: Iterable[str]) -> dict[str, float]:
    found = {}
    for name in order:
        gc.collect()  # of what the last one left
        found[name] = ways[name]()
    return found


def memory(case: Case) -> Iterable[Figure]:
    """Peak resident memory of training, each in a process of its own."""
    runs = [{way: measured(case, way) for way in (OURS, HAND)} for _ in range(PROCESSES)]

    def median(way: str, *, files: bool) -> float:
        peaks = [run[way]["peak_bytes"] - (0 if files else run[way]["mapped_bytes"]) for run in runs]
        return statistics.median(peaks) / 1e6

    for what, files in (("peak memory", True), ("peak memory without mapped files", False)):
        yield Figure(
            f"{case.name}: {what}", median(OURS, files=files), "MB", f"{median(HAND, files=files):,.0f} for {HAND}"
        )


def on_gpu() -> Iterable[Figure]:
    """A Llama of 1.1 billion random weights, embeddings and the first three quarters of its layers frozen."""
    live, kept = gpu_cases()
    if not torch.cuda.is_available():
        for what in ("tokens per second", "peak memory"):
            yield Figure(f"{live.name}: {what}", "not run", "", "no CUDA device here")
        return
    theirs, ours_live, ours_kept = measured(live, HF), measured(live, OURS), measured(kept, OURS)
    speed, peak = f"{theirs['tokens_per_second']:,.0f} for {HF}", f"{theirs['peak_bytes'] / 1e9:.2f} for {HF}"
    for case, taken in ((live, ours_live), (kept, ours_kept)):
        yield Figure(f"{case.name}: tokens per second", taken["tokens_per_second"], "1/s", speed)
        yield Figure(f"{case.name}: peak memory", taken["peak_bytes"] / 1e9, "GB", peak)
