"""Texts of natural length in batches of 16: our loop, which leaves padding out, beside two that pad each batch.

The others pad to the longest text of a batch, as dynamic padding does: the HF Trainer, and a hand-written loop. The
same model, batches in the same order, optimizer, clipping and schedule; rounds in every order, ratios within a round,
medians over rounds. Peak memory is that of a process which does nothing else, without mapped files.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from itertools import islice, permutations
from pathlib import Path

from benchmarks.alone import OURS, PEERS, measured
from benchmarks.figure import Figure
from benchmarks.loops import HAND, HF, Round, ours
from benchmarks.train_loop import one_round
from benchmarks.work import Case, Material, natural_cases, prepared

#: Least speed and most memory over the others', by how long the texts are.
TARGETS = {"whole": ("2.3", "0.8"), "160": ("1.35", "0.95")}
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "6"))
SAMPLE = 16  # steps whose padding is counted


def figures() -> Iterable[Figure]:
    for case in natural_cases():
        speed_target, memory_target = next(both for word, both in TARGETS.items() if word in case.name)
        with tempfile.TemporaryDirectory() as folder:
            yield from speed(case, Path(folder), speed_target)
        peaks = {way: _peak(case, way) for way in (OURS, HAND, HF)}
        for name in (HAND, HF):
            ratio = peaks[OURS] / peaks[name]
            beside = f"at most {memory_target}; {peaks[OURS]:,.0f} and {peaks[name]:,.0f} MB"
            yield Figure(f"{case.name}: peak memory over {name}", ratio, "x", beside)


def speed(case: Case, folder: Path, target: str) -> Iterable[Figure]:
    """Steps per second, all in one process."""
    run, stop = prepared(case, folder)
    given = Material(run.state.model, run.job.training, run.job.sampler)
    others = {name: PEERS[name](replace(given, model=deepcopy(run.state.model)), case, folder) for name in (HAND, HF)}
    with stop, run.witness.witness, run.checkpoints.writer:
        ways: dict[str, Round] = {OURS: ours(run, case)} | others
        for go in ways.values():
            go()  # warm caches, allocators and lazy imports
        rounds = [one_round(ways, order) for order in islice(permutations(ways), ROUNDS)]

    examples, lengths = run.job.training, run.job.training.lengths
    assert lengths is not None
    chosen = [run.job.sampler.positions(step + 1) for step in range(SAMPLE)]
    tokens = sum(int(lengths[positions].sum()) for positions in chosen)
    padded = sum(examples.batch(positions).inputs["input_ids"].numel() for positions in chosen) / tokens
    yield Figure(f"{case.name}: positions of a padded batch per token", padded, "x")
    yield Figure(f"{case.name}: steps per second", statistics.median(each[OURS] for each in rounds), "1/s")
    for name in others:
        ratio = statistics.median(each[OURS] / each[name] for each in rounds)
        yield Figure(f"{case.name}: speed over {name}", ratio, "x", f"at least {target}")


def _peak(case: Case, way: str) -> float:
    taken = measured(case, way)
    return (taken["peak_bytes"] - taken["mapped_bytes"]) / 1e6
