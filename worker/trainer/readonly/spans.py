"""Which pages of a process hold frozen weights that are mapped from files, and nothing that may be written to."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

Range = tuple[int, int]  # addresses: of the first byte, and of the one after the last
Owner = tuple[str, Range]  # a tensor by name


@dataclass(frozen=True, slots=True)
class PageSpan:
    """A run of whole pages that the same tensors lie in."""

    start: int
    stop: int
    names: tuple[Owner, ...]

    @property
    def frozen_bytes(self) -> int:
        return sum(min(stop, self.stop) - max(start, self.start) for _, (start, stop) in self.names)


def private_file_mappings() -> list[Range]:
    """This process's writable private mappings of files, by address: a write there copies the page."""
    ranges = []
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        addresses, rights, _, _, inode, *_ = line.split(maxsplit=5)
        if rights.startswith("rw") and rights.endswith("p") and inode != "0":
            start, stop = addresses.split("-")
            ranges.append((int(start, 16), int(stop, 16)))
    return ranges


def spans(frozen: Iterable[Owner], others: Iterable[Range], mapped: list[Range]) -> list[PageSpan]:
    """Whole pages within `mapped` that hold some of the `frozen` tensors and none of the `others`, by address."""
    turns: dict[int, list[tuple[int, Owner | None]]] = defaultdict(list)
    kept = [owner for owner in frozen if _is_within(owner[1], mapped)]
    for owner, held in [*((owner, owner[1]) for owner in kept), *((None, held) for held in others)]:
        first, last = _whole_pages(held)
        turns[first].append((1, owner))
        turns[last].append((-1, owner))
    return list(_runs(turns))


def _runs(turns: dict[int, list[tuple[int, Owner | None]]]) -> Iterator[PageSpan]:
    """What lies between neighbours among the places where a tensor's pages begin or end."""
    present: dict[Owner | None, int] = {}
    places = sorted(turns)
    for place, following in pairwise(places):
        for change, owner in turns[place]:
            present[owner] = present.get(owner, 0) + change
            if not present[owner]:
                del present[owner]
        names = tuple(owner for owner in present if owner is not None)
        if names and None not in present:
            yield PageSpan(place, following, names)


def _is_within(held: Range, mapped: list[Range]) -> bool:
    at = bisect_right(mapped, held[0], key=lambda each: each[0]) - 1
    return at >= 0 and mapped[at][0] <= held[0] < held[1] <= mapped[at][1]


def _whole_pages(held: Range) -> Range:
    return held[0] // mmap.PAGESIZE * mmap.PAGESIZE, -(-held[1] // mmap.PAGESIZE) * mmap.PAGESIZE
