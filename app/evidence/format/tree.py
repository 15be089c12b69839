"""The Merkle tree over a model's tensors: RFC 9162 hashing over leaves that bind name, dtype, shape, size and bytes.

Leaves sort by the UTF-8 bytes of their names, so a root does not depend on shards, file order or `__metadata__`.
"""

import hashlib
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

LEAF = "frozen-parameters/v1/leaf"
SCHEME = {"leaf": LEAF, "tree": "rfc9162-sha256", "order": "utf8-bytes"}


class Named(Protocol):
    """What a leaf needs; statement.Reading and digest.TensorReading are two of these."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def leaf(reading: Named) -> bytes:
    """The bytes of one leaf: every field has a fixed width or carries its length, so no two readings share them."""
    name, dtype = reading.name.encode(), reading.dtype.encode()
    return b"".join(
        (
            LEAF.encode() + b"\0",
            struct.pack(">I", len(name)) + name,
            struct.pack(">I", len(dtype)) + dtype,
            struct.pack(f">I{len(reading.shape)}Q", len(reading.shape), *reading.shape),
            struct.pack(">Q", reading.nbytes),
            bytes.fromhex(reading.sha256),
        )
    )


def root(readings: Iterable[Named]) -> str:
    """Hex root over readings in any order. Raises ValueError when two of them have one name."""
    ordered = sorted(readings, key=lambda reading: reading.name.encode())
    for first, second in itertools.pairwise(ordered):
        if first.name == second.name:
            raise ValueError(f"two tensors named {first.name!r}")
    return merkle_root([leaf(reading) for reading in ordered]).hex()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """RFC 9162 section 2.1.1: 0x00 before a leaf, 0x01 before two nodes, left subtrees as full as they can be."""
    subtrees: list[bytes] = []  # roots of full ones, each larger than those behind it
    for index, entry in enumerate(leaves):
        node = hashlib.sha256(b"\0" + entry).digest()
        ends = index
        while ends & 1:  # as many full subtrees end here as the index has ones at its end
            node = hashlib.sha256(b"\1" + subtrees.pop() + node).digest()
            ends >>= 1
        subtrees.append(node)
    if not subtrees:
        return hashlib.sha256().digest()
    root = subtrees.pop()
    while subtrees:
        root = hashlib.sha256(b"\1" + subtrees.pop() + root).digest()
    return root


def audit_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """RFC 9162 section 2.1.3.1: the hashes from the leaf at `index` to the root, nearest first."""
    level = [hashlib.sha256(b"\0" + entry).digest() for entry in leaves]
    path = []
    while len(level) > 1:
        if index ^ 1 < len(level):  # else a node without a sibling, which moves up as it is
            path.append(level[index ^ 1])
        pairs = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level, index = pairs + level[len(pairs) * 2 :], index // 2
    return path


def root_of_path(leaf: bytes, *, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf's audit path leads to in a tree of `count` leaves; None where it cannot be one's path."""
    if not 0 <= index < count:
        return None
    node, last, rest = hashlib.sha256(b"\0" + leaf).digest(), count - 1, list(path)
    while last > 0:
        if index % 2 or index < last:
            if not rest:
                return None
            sibling = rest.pop(0)
            pair = sibling + node if index % 2 else node + sibling
            node = hashlib.sha256(b"\1" + pair).digest()
        index, last = index // 2, last // 2
    return None if rest else node
