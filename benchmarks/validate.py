"""Checking training files line by line, on one core, against reading the same lines as JSON alone."""

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from app.files import formats
from benchmarks.figure import Figure
from benchmarks.stand_in import folder

MEGABYTES = 8
RUNS = 3


def figures() -> Iterable[Figure]:
    """Megabytes of JSONL per second of processor time."""
    with folder() as place:
        for task, row in _rows().items():
            path = place / f"{task}.jsonl"
            _write(path, row)
            megabytes = path.stat().st_size / 1e6
            checked = megabytes / min(_took(partial(formats.validate, path, format="jsonl", task=task)))
            parsed = megabytes / min(_took(partial(_parse, path)))
            yield Figure(f"validate JSONL, {task}", checked, "MB/s", f"at least 20; {parsed:.0f} by json alone")


def _rows() -> dict[str, Callable[[int], dict[str, Any]]]:
    """Rows of common tasks, the shortest of which are the slowest per byte."""
    dialogue = [{"role": "user", "content": "question " * 60}, {"role": "assistant", "content": "answer " * 80}]
    chance = random.Random(1)
    return {
        "causal-lm": lambda number: {"messages": dialogue},
        "text-classification": lambda number: {"text": "good day " * 8, "label": "ab"[number % 2]},
        "token-classification": lambda number: {"tokens": ["word"] * 20, "labels": ["O"] * 19 + ["AB"[number % 2]]},
        "tabular-regression": lambda number: {"x": [chance.random() for _ in range(10)], "y": 1.0},
    }


def _write(path: Path, row: Callable[[int], dict[str, Any]]) -> None:
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for number in range(10**9):
            size += file.write(json.dumps(row(number)) + "\n")
            if size > MEGABYTES * 1_000_000:
                return


def _parse(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            json.loads(line)


def _took(work: Callable[[], object]) -> Iterator[float]:
    """Processor seconds of each run: other work on the machine does not count."""
    for _ in range(RUNS):
        started = time.process_time()
        work()
        yield time.process_time() - started
