"""A page of 20 jobs out of 1,000,000 beside the same page out of 1,000, over HTTP on PostgreSQL.

Two services over two databases of one server; their requests alternate, and each figure is a ratio of medians.
"""

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.deployed import Place, multiply, place, postgres, queued
from benchmarks.figure import Figure

FEW, MANY = 1_000, 1_000_000
READS = 200
#: What a dashboard asks for: the newest, some in the middle, one state, one label.
PAGES = {
    "newest 20": "?limit=20",
    "20 behind the 500th": "?limit=20&after=ftjob-copy0000000500",
    "oldest 20": "?limit=20&order=asc",
    "20 that wait": "?limit=20&status=queued",
    "20 of one label": "?limit=20&metadata[team]=nlp",
}


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as name:
        folder = Path(name)
        with (
            postgres(folder / "postgres") as server,
            place(server, "few", folder) as few,
            place(server, "many", folder) as many,
        ):
            for each, upto in ((few, FEW), (many, MANY)):
                multiply(each, queued(each, metadata={"team": "nlp"}), upto=upto)
            for title, query in PAGES.items():
                path = f"/v1/fine_tuning/jobs{query}"
                yield from compared(title, path, (few, FEW), (many, MANY), reads=READS)


def compared(title: str, path: str, few: tuple[Place, int], many: tuple[Place, int], *, reads: int) -> Iterable[Figure]:
    """The same path of two services, each with its number of jobs, in turns."""
    (small_place, less), (large_place, more) = few, many
    places = (small_place, large_place)
    for each in places:
        read(each, path)
    pairs = [[read(each, path) for each in places] for _ in range(reads)]
    small, large = (statistics.median(column) for column in zip(*pairs, strict=True))
    yield Figure(f"{title} of {more:,} jobs, median", large, "ms", f"{small:.2f} ms of {less:,}")
    yield Figure(f"{title}, {more:,} over {less:,}", large / small, "x", "at most 2")


def read(each: Place, path: str) -> float:
    began = time.perf_counter()
    each.service.read(path)
    return (time.perf_counter() - began) * 1e3
