"""Object stores: obstore beside fsspec with s3fs, at what the storage of blobs does with one.

A put with its digest (through a file of this machine, as now; and streamed to a temporary key that is copied to its
digest), whole objects, small ranges at random places. One moto server on loopback serves both, in turn; the processor
seconds are of the client's process alone, and say more than the server's pace.
"""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from app.storage.object_store import BLOCK
from benchmarks.figure import Figure
from benchmarks.stand_in import folder, in_turn
from tests.servers import s3_server
from tools import peers

MEGABYTES: Final = 64
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
RANGES: Final = 100
RANGE: Final = 64 << 10
CHUNK: Final = 1 << 20
PART: Final = 8 << 20
BUCKET: Final = "benchmark"
KEYS: Final = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: seconds by the clock, and of this process' own processor time."""

    wall: float
    cpu: float


class S3fs:
    """What the storage uses: fsspec's interface, with its options."""

    def __init__(self, url: str) -> None:
        from s3fs import S3FileSystem

        endpoint = {"endpoint_url": url, "region_name": KEYS["region"]}
        key, secret = KEYS["access_key_id"], KEYS["secret_access_key"]
        self._files = S3FileSystem(key=key, secret=secret, client_kwargs=endpoint, use_listings_cache=False)

    def put(self, file: Path, key: str) -> None:
        self._files.put_file(str(file), f"{BUCKET}/{key}", mode="create")

    def stream(self, parts: Iterator[bytes], key: str) -> None:
        with self._files.open(f"{BUCKET}/{key}", "wb", block_size=PART) as target:
            for part in parts:
                target.write(part)

    def move(self, key: str, to: str) -> None:
        self._files.cp_file(f"{BUCKET}/{key}", f"{BUCKET}/{to}")
        self._files.rm_file(f"{BUCKET}/{key}")

    def fetch(self, key: str, to: Path) -> None:
        self._files.get_file(f"{BUCKET}/{key}", str(to), max_concurrency=1)

    def fetch_in_parts(self, key: str, to: Path) -> None:
        """As `get_file` does it by itself: parts of 50 MB at once, each held in memory."""
        self._files.get_file(f"{BUCKET}/{key}", str(to))

    def fetch_by_blocks(self, key: str, to: Path) -> None:
        """By the file that fsspec opens, which asks for one block after the other: how it was done before."""
        with self._files.open(f"{BUCKET}/{key}", "rb", block_size=BLOCK) as source, to.open("wb") as target:
            while data := source.read(CHUNK):
                target.write(data)

    def part(self, key: str, start: int, size: int) -> bytes:
        data: bytes = self._files.cat_file(f"{BUCKET}/{key}", start=start, end=start + size)
        return data


class Obstore:
    """The same by obstore's own interface."""

    def __init__(self, url: str) -> None:
        sys.path.append(str(peers.packages("obstore")))
        import obstore  # type: ignore[import-not-found,unused-ignore]
        from obstore.store import S3Store  # type: ignore[import-not-found,unused-ignore]

        self._calls: Any = obstore
        options = {"allow_http": True}
        self._store = S3Store(BUCKET, endpoint=url, virtual_hosted_style_request=False, client_options=options, **KEYS)

    def put(self, file: Path, key: str) -> None:
        self._calls.put(self._store, key, file, mode="create", use_multipart=False)

    def stream(self, parts: Iterator[bytes], key: str) -> None:
        with self._calls.open_writer(self._store, key, buffer_size=PART) as target:
            for part in parts:
                target.write(part)

    def move(self, key: str, to: str) -> None:
        self._calls.copy(self._store, key, to)
        self._calls.delete(self._store, key)

    def fetch(self, key: str, to: Path) -> None:
        with to.open("wb") as target:
            for data in self._calls.get(self._store, key).stream(min_chunk_size=CHUNK):
                target.write(data)

    def part(self, key: str, start: int, size: int) -> bytes:
        return bytes(self._calls.get_range(self._store, key, start=start, length=size))


Client = S3fs | Obstore


def figures() -> Iterable[Figure]:
    with folder() as place, s3_server() as url:
        httpx2.put(f"{url}/{BUCKET}").raise_for_status()
        clients: dict[str, Client] = {"s3fs": S3fs(url), "obstore": Obstore(url)}
        data = os.urandom(MEGABYTES << 20)
        clients["s3fs"].stream(iter([data]), "object")
        works: dict[str, Callable[[Client], object]] = {
            f"put of {MEGABYTES} MiB through a file": lambda client: spooled(client, data, place),
            f"put of {MEGABYTES} MiB, streamed and copied": lambda client: streamed(client, data),
            f"whole object of {MEGABYTES} MiB": lambda client: client.fetch("object", place / "fetched"),
            f"{RANGES} ranges of {RANGE >> 10} KiB": lambda client: ranges(client, data),
        }
        for name, work in works.items():
            yield from compared(name, clients, work)
        s3fs = S3fs(url)
        ways = {
            "blocks": lambda: s3fs.fetch_by_blocks("object", place / "fetched"),
            "parts": lambda: s3fs.fetch_in_parts("object", place / "fetched"),
            "stream": lambda: s3fs.fetch("object", place / "fetched"),
        }
        took = {name: statistics.median(seconds) for name, seconds in in_turn(ways, ROUNDS).items()}
        yield Figure("whole object by s3fs: blocks, as before", took["blocks"], "s", f"{took['stream']:.3f} now")
        yield Figure("whole object by s3fs: parts at once", took["parts"], "s", f"{took['stream']:.3f} now")


def spooled(client: Client, data: bytes, place: Path) -> None:
    """As now: a file of this machine takes the bytes while they are hashed, and is sent under its digest."""
    digest = hashlib.sha256()
    file = place / "spooled"
    with file.open("wb") as target:
        for part in _unique(data):
            digest.update(part)
            target.write(part)
    client.put(file, f"sha256/{digest.hexdigest()}")


def streamed(client: Client, data: bytes) -> None:
    """Without a file: parts go to a temporary key, which the store copies to the digest once that is known."""
    digest = hashlib.sha256()

    def parts() -> Iterator[bytes]:
        for part in _unique(data):
            digest.update(part)
            yield part

    temporary = f"incoming/{uuid.uuid4().hex}"
    client.stream(parts(), temporary)
    client.move(temporary, f"sha256/{digest.hexdigest()}")


def ranges(client: Client, data: bytes) -> None:
    """Reads of small ranges, one after the other, each compared."""
    place = random.Random(0)
    for _ in range(RANGES):
        start = place.randrange(len(data) - RANGE)
        if client.part("object", start, RANGE) != data[start : start + RANGE]:
            raise SystemExit("a range has other bytes")


def compared(name: str, clients: dict[str, Client], work: Callable[[Client], object]) -> Iterable[Figure]:
    """Medians of both, in turn, and of the ratio of rounds: above 1, obstore is faster."""
    costs: dict[str, list[Cost]] = {each: [] for each in clients}
    for _ in range(ROUNDS):
        for each, client in clients.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work(client)
            costs[each].append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    pairs = list(zip(costs["s3fs"], costs["obstore"], strict=True))
    seconds, used = (
        {each: statistics.median(getattr(cost, what) for cost in costs[each]) for each in clients}
        for what in ("wall", "cpu")
    )
    ratio = statistics.median(s3fs.wall / obstore.wall for s3fs, obstore in pairs)
    yield Figure(f"{name}: s3fs", seconds["s3fs"], "s", f"{seconds['obstore']:.3f} by obstore")
    yield Figure(f"{name}: s3fs, processor", used["s3fs"], "s", f"{used['obstore']:.3f} by obstore")
    yield Figure(f"{name}: obstore's speed", ratio, "x", "s3fs is 1")


def _unique(data: bytes) -> Iterator[bytes]:
    """The bytes in chunks, of which the first is new each time, so that no blob is there already."""
    yield os.urandom(CHUNK)
    for at in range(CHUNK, len(data), CHUNK):
        yield data[at : at + CHUNK]
