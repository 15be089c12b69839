"""A spot check of one segment of a run beside the whole run, by processor time of this process."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Final

from app.evidence.format.digest import read_file
from benchmarks.figure import Figure
from benchmarks.recipe import SEGMENTS, processor_seconds, trained, work_order
from benchmarks.stand_in import folder
from worker.protocol import Workspace
from worker.supervisor.checkpoints import WEIGHTS, saved_state

STEPS: Final = int(os.environ.get("BENCH_STEPS", "100"))


def figures() -> Iterable[Figure]:
    with folder() as place:
        yield from share_of_a_segment(place)


def share_of_a_segment(place: Path) -> Iterable[Figure]:
    """All layers of MiniLM train; one of ten segments, from its checkpoint, beside all of them."""
    every = STEPS // SEGMENTS
    wanted = {"max_steps": STEPS, "batch_size": 16, "checkpoint_steps": every, "keep_checkpoints": SEGMENTS}
    order = work_order(place / "whole", count=400, policy={}, hyperparameters=wanted)
    whole = processor_seconds(lambda: trained(order, place / "whole", []))

    start = f"step-{5 * every:08d}"
    part = work_order(place / "part", count=400, policy={}, hyperparameters=wanted)
    Workspace(place / "part").checkpoints.mkdir(exist_ok=True)
    copytree(place / "whole" / "checkpoints" / start, place / "part" / "checkpoints" / start)
    segment = processor_seconds(lambda: trained(replace(part, until=6 * every), place / "part", []))
    yield Figure(
        "reproduce: segment check of a run of ten segments", segment / whole, "of the whole run", "at most 0.15"
    )

    state = place / "whole" / "checkpoints" / start
    weights = read_file(state / WEIGHTS)
    digests = processor_seconds(lambda: saved_state(state, 5 * every, weights))
    yield Figure("recipe: digests of one checkpoint's state", 100 * digests / (whole / SEGMENTS), "% of a segment", 2)
