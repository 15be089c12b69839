"""Blobs in and out of the storage beside a plain file copy: hashing, flushing and publishing are what is paid for."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from app.storage.blobs import CHUNK, Storage
from benchmarks.figure import Figure
from benchmarks.stand_in import best, folder

MEGABYTES, SMALL, SMALL_BYTES = 256, 200, 4_000
RUNS = 5


def figures() -> Iterable[Figure]:
    with folder() as place:
        source = place / "source"
        source.write_bytes(os.urandom(1 << 20) * MEGABYTES)
        yield from large(place, source)
        yield from small(place)


def large(place: Path, source: Path) -> Iterable[Figure]:
    """One file, with the page cache warm on both sides; both are flushed to the disk before they count."""
    storage, size = Storage(f"file://{place}/blobs"), MEGABYTES / 1e3 * (1 << 20) / 1e6
    key = storage.put(source).key

    def put() -> None:
        storage.delete(key)
        storage.put(source)

    def copy() -> None:
        shutil.copyfile(source, place / "copy")
        with (place / "copy").open("rb") as file:
            os.fsync(file.fileno())

    def copy_and_hash() -> None:
        copy()
        with source.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    def get() -> None:
        with storage.open(key) as file:
            while file.read(CHUNK):
                pass

    def read() -> None:
        with source.open("rb") as file:
            while file.read(CHUNK):
                pass

    ours, theirs, both = size / best(put, RUNS), size / best(copy, RUNS), size / best(copy_and_hash, RUNS)
    yield Figure(f"put of {MEGABYTES} MB", ours, "GB/s", f"{theirs:.2f} by copy and fsync; {both:.2f} with SHA-256")
    yield Figure("put, of copy, fsync and SHA-256", ours / both, "x")
    got, plain = size / best(get, RUNS), size / best(read, RUNS)
    yield Figure(f"get of {MEGABYTES} MB", got, "GB/s", f"{plain:.2f} by reading a plain file")


def small(place: Path) -> Iterable[Figure]:
    """Many small files, each of which has to be durable by itself."""
    storage = Storage(f"file://{place}/small")
    contents = [os.urandom(SMALL_BYTES) for _ in range(SMALL)]

    def put() -> None:
        shutil.rmtree(place / "small" / "sha256", ignore_errors=True)
        for content in contents:
            with storage.writer() as writer:
                writer.write(content)

    def write() -> None:
        for number, content in enumerate(contents):
            with (place / f"plain-{number}").open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    ours, theirs = best(put, RUNS) / SMALL * 1e3, best(write, RUNS) / SMALL * 1e3
    yield Figure(f"put of {SMALL_BYTES:,} bytes", ours, "ms", f"{theirs:.3f} by write and fsync")
