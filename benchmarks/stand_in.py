"""Model files of any size without training: what reading them costs does not depend on their values."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.evidence.format.tensorfile import TensorEntry, header_bytes

WIDTH = 1024
TENSOR_BYTES = 4 * WIDTH * WIDTH


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as place:
        yield Path(place)


def write_model(path: Path, *, megabytes: int) -> None:
    """Square F32 matrices, as many as it takes; bytes are random, yet the same for the same name."""
    count = max(1, megabytes * 1_000_000 // TENSOR_BYTES)
    entries = [
        TensorEntry(f"layers.{at}.weight", "F32", (WIDTH, WIDTH), at * TENSOR_BYTES, (at + 1) * TENSOR_BYTES)
        for at in sorted(range(count), key=str)
    ]
    entries = [
        TensorEntry(each.name, each.dtype, each.shape, at * TENSOR_BYTES, (at + 1) * TENSOR_BYTES)
        for at, each in enumerate(entries)
    ]
    noise = os.urandom(TENSOR_BYTES)
    with path.open("wb") as file:
        file.write(header_bytes(entries, {"format": "pt"}))
        for at in range(count):
            file.write(noise[at:] + noise[:at])  # another rotation for each, so that no two have one digest


def best(work: Callable[[], object], runs: int = 3) -> float:
    """The fastest of a few runs, in seconds."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def in_turn(works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of every run of each, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return seconds
