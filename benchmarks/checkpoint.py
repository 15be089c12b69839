"""What a checkpoint costs: the time that training stands still for it, and what the writing beside it takes.

The state of MiniLM with all layers in training (weights and two moments of AdamW each), and with its head alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.loops import ours
from benchmarks.work import Case, cases, prepared
from worker.trainer import checkpoint
from worker.trainer.training import loop
from worker.trainer.training.hyperparameters import CHECKPOINT_SECONDS

TIMES = 5


def figures() -> Iterable[Figure]:
    head, whole, *_ = cases()
    for case in (head, whole):
        with tempfile.TemporaryDirectory() as folder:
            yield from cost(replace(case, steps=2), Path(folder))


def cost(case: Case, folder: Path) -> Iterable[Figure]:
    """Each checkpoint after two more steps, so that everything in it has moved."""
    run, stop = prepared(case, folder)
    still, written, slowed, plain = [], [], [], []
    with stop, run.witness.witness, run.checkpoints.writer:
        go = ours(run, case)
        go()
        for _ in range(TIMES):
            plain.append(go())
            began = time.perf_counter()
            step = run.witness.witness.steps
            run.checkpoints.save(run.state, step, {}, witness=run.witness, progress=run.progress)
            still.append(time.perf_counter() - began)
            slowed.append(go())
            run.checkpoints.wait()
            written.append(time.perf_counter() - began)
    size = sum(each.stat().st_size for each in newest(run, folder).iterdir())
    stop_seconds, beside = statistics.median(still), statistics.median(written)
    lost = stop_seconds + max(0.0, 1 - statistics.median(slowed) / statistics.median(plain)) * beside
    per = f"in {CHECKPOINT_SECONDS:g} s, the default interval; at most 1"
    yield Figure(f"{case.name}: a checkpoint's size", size / 1e6, "MB")
    yield Figure(f"{case.name}: training stands still for", 1e3 * stop_seconds, "ms", f"{1e3 * beside:,.0f} to write")
    yield Figure(f"{case.name}: share of training time", 100 * lost / CHECKPOINT_SECONDS, "%", per)


def newest(run: loop.Run, folder: Path) -> Path:
    return checkpoint.path_of(folder / "job" / "checkpoints", run.witness.witness.steps - 2)
