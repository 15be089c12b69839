"""Digests of a model file and of every tensor in it, from one pass, against hashlib over the same bytes."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.evidence.digest import read_file
from benchmarks.figure import Figure
from benchmarks.machine import cores
from benchmarks.stand_in import best, folder, write_model

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

    twice, once = 2 * size / best(lambda: peer(2), RUNS), size / best(lambda: peer(1), RUNS)
    both = 2 * size / best(lambda: read_file(path), RUNS)
    alone = size / best(lambda: read_file(path, whole=False), RUNS)
    peers = f"by hashlib with {threads} threads, in memory"
    yield Figure("tensors and file in one pass, hashed bytes", both, "GB/s", f"{twice:.2f} {peers}")
    yield Figure("tensors and file in one pass, of the peer", both / twice, "x", "at least 0.9")
    yield Figure("header and tensors alone", alone, "GB/s", f"{once:.2f} {peers}")
