"""`python -m benchmarks.alone CASE WAY`: one way of training in a process of its own; what it took, as a JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from benchmarks.loops import HAND, HF, LIGHTNING, Round, hand_written, hf_trainer, lightning_trainer, ours
from benchmarks.work import Case, cases, gpu_cases, gpu_more_cases, material, natural_cases, prepared

OURS = "ours"
PEERS = {HAND: hand_written, HF: hf_trainer, LIGHTNING: lightning_trainer}


class Taken(TypedDict):
    """`peak_bytes` of resident memory while training, or of what was allocated on the GPU.

    `mapped_bytes` are those of it that hold pages of files: of libraries and of the base.
    """

    steps_per_second: float
    tokens_per_second: float
    peak_bytes: int
    mapped_bytes: int


def measured(case: Case, way: str) -> Taken:
    """From a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.alone", case.name, way], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{case.name} by {way} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: Taken = json.loads(done.stdout.splitlines()[-1])
    return found


def main(name: str, way: str) -> None:
    case = next(each for each in (*cases(), *gpu_cases(), *gpu_more_cases(), *natural_cases()) if each.name == name)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(trained(case, way, Path(folder))))


def trained(case: Case, way: str, folder: Path) -> Taken:
    """Two rounds: the first warms up, both count for the peak."""
    if way == OURS:
        run, stop = prepared(case, folder)
        forget_peak(case)
        with stop, run.witness.witness, run.checkpoints.writer:
            speed = best(ours(run, case))
        training, order = run.job.training, run.job.sampler
    else:
        given = material(case, folder)
        forget_peak(case)
        speed = best(PEERS[way](given, case, folder))
        training, order = given.training, given.order
    lengths = training.lengths if training.lengths is not None else np.zeros(len(training), np.int64)  # pictures: 0
    tokens = sum(int(lengths[order.positions(step + 1)].sum()) for step in range(case.steps)) / case.steps
    mapped = 0 if case.device == "cuda" else resident("RssFile")
    return {
        "steps_per_second": speed,
        "tokens_per_second": speed * tokens,
        "peak_bytes": peak(case),
        "mapped_bytes": mapped,
    }


def best(go: Round) -> float:
    return max(go(), go())


def forget_peak(case: Case) -> None:
    """Loading is the same code for all, and has a peak of its own."""
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak(case: Case) -> int:
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM")


def resident(which: str) -> int:
    """A figure of the kernel's on this process, in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{which}:")).split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
