"""Steps of a head over a frozen encoder whose results are kept, beside a bare torch loop over the same features.

Both in one process, by turns of `STEPS` steps; the median over the rounds of the ratio of their times. The bare loop
has the same head, batches of the same size, clipping and fused AdamW. `BENCH_CLOCK=cpu` and `OMP_NUM_THREADS=1` as for
`prefix_cache`, which also times a whole run.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.loops import CLOCK, ours
from benchmarks.prefix_cache import bare_training, case
from benchmarks.work import minilm_base, prepared

EXAMPLES, STEPS = 512, 100
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "40"))


def figures() -> Iterable[Figure]:
    work = case("MiniLM, head only", {"freeze": ["bert.**"]}, minilm_base, examples=EXAMPLES, epochs=1000)
    with tempfile.TemporaryDirectory() as folder:
        run, stop = prepared(work, Path(folder))
        cache = run.passes.prefix
        assert cache is not None, "kept where it should be"
        with stop, run.witness.witness, run.checkpoints.writer:
            go = ours(run, replace(work, steps=STEPS))
            go()  # warm caches; the witness's early checks
            rounds = []
            for _ in range(ROUNDS):
                began = CLOCK()
                go()
                taken = CLOCK() - began
                rounds.append((bare_training(run, cache, STEPS), taken))
        cache.close()
    bare, kept = (1e6 * statistics.median(each) / STEPS for each in zip(*rounds, strict=True))
    yield Figure(f"{work.name}: a step from kept results", kept, "us", f"{bare:.4g} by a bare loop on kept features")
    ratio = statistics.median(one / other for one, other in rounds)
    yield Figure(f"{work.name}: steps over a bare loop on kept features, by turns", ratio, "x", "0.8 and more")
