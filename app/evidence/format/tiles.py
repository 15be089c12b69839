"""The tree of a log in tiles of 256 hashes (c2sp.org/tlog-tiles), and the proofs that are made of them.

A tile of level L has the roots of full subtrees of 256**L entries. A proof reads some tiles, however large the log is.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

WIDTH: Final = 256
HASH: Final = 32
_HEIGHT: Final = 8  # levels of the tree in one tile
MAX_ENTRY: Final = 0xFFFF  # bytes: an entry's length has two


class TileError(ValueError):
    """A tile that is missing, has another size, or does not belong to the tree."""


@dataclass(frozen=True, slots=True)
class TilePath:
    """Which tile, or bundle of entries where `level` is None; `width` below 256 is a part of it."""

    level: int | None
    index: int
    width: int = WIDTH

    def __str__(self) -> str:
        groups = [f"{self.index:03d}"[-3:]]
        rest = self.index // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level is None else str(self.level)
        part = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(groups)}{part}"

    @classmethod
    def parse(cls, text: str) -> "TilePath | None":
        """The tile of such a path; None for any other text, and for another spelling of a path."""
        match = re.fullmatch(
            r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", text, re.ASCII
        )
        if match is None:
            return None
        level = None if match[1] == "entries" else int(match[1])
        path = cls(level, int(match[2].replace("x", "").replace("/", "")), int(match[3] or WIDTH))
        return path if str(path) == text and path.width <= WIDTH and (level or 0) < 64 else None


ReadTile = Callable[[int, int, int], bytes]
"""Reads `width` hashes of a tile, by its level and index. Raises TileError."""


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def in_size(level: int, size: int) -> int:
    """How many hashes a level has, over all of its tiles, in a log of this size."""
    return size >> (_HEIGHT * level)


def paths_between(old: int, new: int) -> Iterator[TilePath]:
    """The tiles that a log gets when it grows from one size to another, partial ones at its end alone."""
    level = 0
    while in_size(level, new):
        before, after = in_size(level, old), in_size(level, new)
        if after > before:
            for index in range(before // WIDTH, -(-after // WIDTH)):
                yield TilePath(level, index, min(WIDTH, after - index * WIDTH))
        level += 1


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree of a log of `size` entries, as its tiles have it. It reads each tile once."""

    size: int
    read: ReadTile
    _tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def root(self) -> bytes:
        return self._range(0, self.size) if self.size else hashlib.sha256().digest()

    def leaf(self, index: int) -> bytes:
        return self._neighbours(0, index, 1)

    def inclusion(self, index: int) -> list[bytes]:
        """RFC 9162, 2.1.3.1: the hashes from a leaf to the root, nearest first."""
        if not 0 <= index < self.size:
            raise TileError(f"entry {index} is not in a log of {self.size} entries")
        path: list[bytes] = []
        begin, end = 0, self.size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin = middle
        return path[::-1]

    def consistency(self, old: int) -> list[bytes]:
        """RFC 9162, 2.1.4.1: the hashes that show that a log of `old` entries is the beginning of this one."""
        if not 0 < old <= self.size:
            raise TileError(f"a log of {self.size} entries has no beginning of {old} entries")
        path: list[bytes] = []
        begin, end, whole = 0, self.size, True
        while old != end:
            middle = begin + _split(end - begin)
            if old <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin, whole = middle, False
        return path[::-1] if whole else [self._range(begin, end), *path[::-1]]

    def _range(self, begin: int, end: int) -> bytes:
        """The root over the entries from `begin` on, whose number is a full subtree's or goes to the end."""
        count = end - begin
        if count & (count - 1) == 0:
            return self._full(begin, count)
        middle = begin + _split(count)
        return node_hash(self._range(begin, middle), self._range(middle, end))

    def _full(self, begin: int, count: int) -> bytes:
        """The root over a full subtree: some neighbours of the highest tile that has it."""
        level, height = divmod(count.bit_length() - 1, _HEIGHT)
        return _folded(self._neighbours(level, begin >> (_HEIGHT * level), 1 << height))

    def _neighbours(self, level: int, at: int, count: int) -> bytes:
        """Hashes of one tile, in a row."""
        index, offset = divmod(at, WIDTH)
        tile = self._tiles.get((level, index))
        if tile is None:
            tile = self.read(level, index, min(WIDTH, in_size(level, self.size) - index * WIDTH))
            self._tiles[level, index] = tile
        return tile[offset * HASH : (offset + count) * HASH]


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbours, whose number is a power of two."""
    while len(hashes) > 1:
        hashes = [node_hash(a, b) for a, b in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


@lru_cache(maxsize=1024)
def _folded(hashes: bytes) -> bytes:
    """The root over neighbours. Every proof of a log needs those of the upper levels again."""
    return fold([hashes[at : at + HASH] for at in range(0, len(hashes), HASH)])


def root_of_path(leaf: bytes, *, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf's hash and path lead to in a log of this size; None where it cannot be one's path."""
    if not 0 <= index < size:
        return None
    node, last, rest = leaf, size - 1, list(path)
    while last > 0:
        if index % 2 or index < last:
            if not rest:
                return None
            sibling = rest.pop(0)
            node = node_hash(sibling, node) if index % 2 else node_hash(node, sibling)
        index, last = index // 2, last // 2
    return None if rest else node


def roots_of_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes) -> tuple[bytes, bytes] | None:
    """RFC 9162, 2.1.4.2: the roots of the older and the newer log that a path leads to; None where it cannot be one."""
    if not 0 < old <= new or (old == new) == bool(path):
        return None
    if old == new:
        return old_root, old_root
    rest = list(path) if old & (old - 1) else [old_root, *path]
    first = second = rest.pop(0)
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at // 2, last // 2
    for sibling in rest:
        if last == 0:
            return None
        if at % 2 or at == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            second = node_hash(second, sibling)
        at, last = at // 2, last // 2
    return (first, second) if last == 0 else None


def bundle(entries: Iterable[bytes]) -> bytes:
    """A bundle of entries: each after its length, in two bytes."""
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def entries_of(raw: bytes) -> list[bytes]:
    """The entries of a bundle. Raises TileError."""
    entries, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 2])
        if at + 2 + size > len(raw):
            raise TileError("a bundle of entries ends within an entry")
        entries.append(raw[at + 2 : at + 2 + size])
        at += 2 + size
    return entries


def _split(count: int) -> int:
    """The largest power of two below a count."""
    return 1 << ((count - 1).bit_length() - 1)
