"""Digests of a model file and of every tensor in it, from one pass, against hashlib over the same bytes."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.evidence.format.digest import read_file
from benchmarks.figure import Figure
from benchmarks.machine import cores
from benchmarks.stand_in import folder, in_turn, write_model

MEGABYTES = 512
RUNS = 5


def figures() -> Iterable[Figure]:
    with folder() as place:
        path = place / "model.safetensors"
        write_model(path, megabytes=MEGABYTES)
        yield from rates(path)


def rates(path: Path) -> Iterable[Figure]:
    """Each byte is hashed twice where file and tensors are wanted: for the file's digest and for its tensor's."""
    data, threads = memoryview(path.read_bytes()), cores()
    size = len(data) / 1e9
    parts = [data[at : at + (16 << 20)] for at in range(0, len(data), 16 << 20)]

    def peer(times: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: hashlib.sha256(part).digest(), parts * times))

    works = {
        "twice": lambda: peer(2),
        "both": lambda: read_file(path),
        "once": lambda: peer(1),
        "alone": lambda: read_file(path, whole=False),
    }
    # In turn, so that a machine that slows down slows all of them.
    seconds = {name: min(took) for name, took in in_turn(works, RUNS).items()}
    twice, both = 2 * size / seconds["twice"], 2 * size / seconds["both"]
    once, alone = size / seconds["once"], size / seconds["alone"]
    peers = f"by hashlib with {threads} threads, in memory"
    yield Figure("tensors and file in one pass, hashed bytes", both, "GB/s", f"{twice:.2f} {peers}")
    yield Figure("tensors and file in one pass, of the peer", both / twice, "x", "at least 0.9")
    yield Figure("header and tensors alone", alone, "GB/s", f"{once:.2f} {peers}")
