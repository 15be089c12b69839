"""Training from tokens in files ten times as large as the memory left for them, beside the same tokens in memory.

Two processes of the same job train a round each by turns. One of them is in a memory control group, whose limit is what
that process holds without its tokens, and a tenth of these: the kernel drops pages of the files and reads them again.
Making the group takes root. A figure is the median over rounds of the ratio of steps per second, by the clock.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.figure import Figure
from benchmarks.loops import ours
from benchmarks.work import cases, prepared
from worker.trainer.data import flat
from worker.trainer.data.language import LanguageExamples
from worker.trainer.data.language_example import LanguageExample, LanguageWriter
from worker.trainer.data.padded import Tokens
from worker.trainer.data.sampler import Sampler
from worker.trainer.training import loop

EXAMPLES, LENGTH = int(os.environ.get("BENCH_EXAMPLES", "800000")), 64
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
#: By the version of control groups: folder, limit, the file with the sum of what is no page of a file, and its line.
GROUPS = (
    ("memory", "memory.limit_in_bytes", "rss"),
    ("", "memory.max", "anon"),
)
MEMORY, FILES = "memory", "files"


def figures() -> Iterable[Figure]:
    name = f"small causal LM, {EXAMPLES * LENGTH * 8 / 1e6:.0f} MB of tokens in files over in memory: speed"
    with tempfile.TemporaryDirectory() as folder, control_group() as group:
        if group is None:
            yield Figure(name, "not run", "", "it takes root, and a memory control group")
            return
        bound = EXAMPLES * LENGTH * 8 // 10
        rounds = list(in_turns(Path(folder), group, bound))
    ratio = statistics.median(each[FILES]["speed"] / each[MEMORY]["speed"] for each in rounds)
    yield Figure(name, ratio, "x", "0.95")
    yield Figure(
        "small causal LM, tokens in files: read from the disk in a step",
        statistics.median(each[FILES]["read"] for each in rounds) / 1e3,
        "kB",
        f"{bound / 1e6:.0f} MB of memory for pages of files",
    )


def in_turns(folder: Path, group: Path, bound: int) -> Iterator[dict[str, dict[str, Any]]]:
    """What each way took, by rounds."""
    ways = {way: started(way, folder / way, group) for way in (MEMORY, FILES)}
    try:
        for way in [*ways.values()] * 3:
            taken(way)  # then all is allocated that training takes
        limit(group, bound)
        taken(ways[FILES])  # what the kernel drops for the new limit comes back
        for turn in range(ROUNDS):
            yield {way: taken(ways[way]) for way in sorted(ways, reverse=bool(turn % 2))}
    finally:
        for each in ways.values():
            each.kill()
            each.wait()


@contextmanager
def control_group() -> Iterator[Path | None]:
    """A new one, or None where that is not allowed."""
    for folder, most, _ in GROUPS:
        group = Path("/sys/fs/cgroup") / folder / f"permafrost-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if not (group / most).exists():
            group.rmdir()
            continue
        try:
            yield group
        finally:
            time.sleep(1)  # until the kernel has let the process go
            group.rmdir()
        return
    yield None


def limit(group: Path, bound: int) -> None:
    """Leaves `bound` bytes for pages of files beside what the process holds."""
    most, line = next((most, line) for _, most, line in GROUPS if (group / most).exists())
    held = next(each for each in (group / "memory.stat").read_text().splitlines() if each.startswith(f"{line} "))
    (group / most).write_text(str(int(held.split()[1]) + bound))


def started(way: str, folder: Path, group: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.data_from_disk", way, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if way == FILES:
        (group / "cgroup.procs").write_text(str(process.pid))
    return process


def taken(process: subprocess.Popen[str]) -> dict[str, Any]:
    """One round of a process."""
    _pipe(process.stdin).write("go\n")
    _pipe(process.stdin).flush()
    found: dict[str, Any] = json.loads(_pipe(process.stdout).readline())
    return found


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def main(way: str, folder: Path) -> None:
    """Trains a round for each line of its input."""
    case = next(each for each in cases() if each.name == "small causal LM")
    flat.HELD_BYTES = sys.maxsize if way == MEMORY else flat.HELD_BYTES  # type: ignore[misc]
    run, stop = prepared(case, folder)
    run.job = run.passes.job = of_many(run, folder)
    with stop, run.witness.witness, run.checkpoints.writer:
        go = ours(run, case)
        run.passes.job = run.job
        for _ in sys.stdin:
            before, speed = bytes_read(), go()
            loss = next(each["loss"] for each in reversed(run.progress.history) if "loss" in each)
            found = {"speed": speed, "loss": loss, "read": (bytes_read() - before) / case.steps}
            print(json.dumps(found), flush=True)


def of_many(run: loop.Run, folder: Path) -> Any:
    """The job over more examples than its own, of random tokens: making them takes no tokenizer."""
    chance, writer = np.random.default_rng(0), LanguageWriter(folder)
    for _ in range(EXAMPLES):
        ids = chance.integers(1000, 30_000, LENGTH, dtype=np.int32)
        writer.add(LanguageExample(Tokens(ids), ids))
    job = run.job
    examples = LanguageExamples(writer.finished(pad=0), pad=0)
    sampler = Sampler(EXAMPLES, job.settings.batch_size, job.order.seed)
    return replace(job, data=replace(job.data, training=examples), sampler=sampler)


def bytes_read() -> int:
    """From the disk, by this process."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return int(next(each for each in lines if each.startswith("read_bytes:")).split()[1])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
