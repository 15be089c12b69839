"""The tree over a job's training examples: proofs that one was trained on, at which steps, and that one was not.

Leaves sort by the SHA-256 of their example in canonical form, so that two neighbours prove that nothing lies between
them. What else is in a leaf is blinded: a proof shows the digests of other leaves, from which nobody can guess.
"""

import hashlib
import hmac
import itertools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from app.evidence.format import tree

EXAMPLE: Final = b"permafrost/example/v1\0"
LEAF: Final = b"permafrost/example/v1/leaf\0"
STEPS: Final = b"permafrost/example/v1/steps\0"
SECRET: Final = b"permafrost/example/v1/secret\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplesRoot:
    """The root over the distinct training examples and their steps, and how many there are: what a recipe has."""

    count: int
    root: str


class ExampleLeaf(NamedTuple):
    """One distinct example: its key, and a commitment to the steps at which it was trained on."""

    key: bytes  # 32 bytes
    commitment: bytes  # 32 bytes

    def encoded(self) -> bytes:
        return LEAF + self.key + self.commitment


def canonical(example: Mapping[str, Any]) -> bytes:
    """An example as bytes: JSON with sorted keys, without spaces, in UTF-8; bytes in it by their SHA-256.

    Labels are as the file has them. `app.files` gives the same example for each way of writing it in a file.
    """
    return json.dumps(example, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain).encode(
        "utf-8", "surrogatepass"
    )


def key_of(example: Mapping[str, Any]) -> bytes:
    """The key of an example, by which leaves are sorted."""
    return key_of_text(canonical(example))


def key_of_text(text: bytes) -> bytes:
    """The key of an example in canonical form."""
    return hashlib.sha256(EXAMPLE + text).digest()


def secret_of(keys: Iterable[bytes]) -> bytes:
    """What blinds the leaves, from all distinct keys in their order: only who has every example can compute it."""
    hasher = hashlib.sha256(SECRET)
    for key in keys:
        hasher.update(key)
    return hasher.digest()


def blind_of(secret: bytes, key: bytes) -> bytes:
    """What blinds one leaf. A proof that the example is there shows it, and nothing about other leaves follows."""
    return hmac.digest(secret, key, "sha256")


def leaf_of(key: bytes, blind: bytes, steps: Sequence[int]) -> ExampleLeaf:
    """The leaf of an example that was trained on at these steps."""
    counted = _counted(len(steps)).pack(len(steps), *steps)
    return ExampleLeaf(key, hashlib.sha256(STEPS + blind + counted).digest())


@lru_cache(1024)  # a step count each, of examples that repeat
def _counted(steps: int) -> struct.Struct:
    return struct.Struct(f">I{steps}Q")


class ExampleTree(NamedTuple):
    """All leaves in their order, with the steps of each."""

    keys: tuple[bytes, ...]
    steps: tuple[tuple[int, ...], ...]
    leaves: tuple[ExampleLeaf, ...]
    secret: bytes

    @classmethod
    def of(cls, steps_by_key: Mapping[bytes, Sequence[int]]) -> "ExampleTree":
        """The tree over distinct examples; equal ones share a leaf with the steps of all."""
        keys = tuple(sorted(steps_by_key))
        steps = tuple(tuple(sorted(steps_by_key[key])) for key in keys)
        secret = secret_of(keys)
        leaves = tuple(leaf_of(key, blind_of(secret, key), taken) for key, taken in zip(keys, steps, strict=True))
        return cls(keys, steps, leaves, secret)

    def root(self) -> ExamplesRoot:
        """What the recipe has."""
        root = tree.merkle_root(leaf.encoded() for leaf in self.leaves).hex()
        return ExamplesRoot(count=len(self.leaves), root=root)


def examples_root(keys: Iterable[bytes], steps_by_key: Iterable[tuple[bytes, Sequence[int]]]) -> ExamplesRoot:
    """What `ExampleTree.root` gives, without the tree: of distinct examples in the order of their keys, in two passes.

    `keys` are those of `steps_by_key`, which has the steps of each, from the first on.
    """
    secret = secret_of(keys)
    leaves = (leaf_of(key, blind_of(secret, key), steps).encoded() for key, steps in steps_by_key)
    counted = itertools.count()
    root = tree.merkle_root(leaf for leaf, _ in zip(leaves, counted, strict=False)).hex()
    return ExamplesRoot(count=next(counted), root=root)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    raise TypeError(f"an example has no {type(value).__name__}")
