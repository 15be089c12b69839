"""Proofs about one example: that a job trained on it, and at which steps, or that it did not. Checked offline."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.evidence.format import fields, tree
from app.evidence.format.examples import (
    ExampleLeaf,
    ExamplesRoot,
    ExampleTree,
    blind_of,
    canonical,
    key_of,
    leaf_of,
)
from app.evidence.format.fields import StatementError
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.jsontypes import JsonDict

PROOF: Final = "urn:permafrost:example-proof:v1"
MAX_PROOF: Final = 64 << 20  # bytes: an example may hold a picture
_FIELDS: Final = {"type", "kind", "example", "root", "count", "index", "blind", "steps", "path", "neighbours"}
_NEIGHBOUR: Final = {"index", "key", "commitment", "path"}


class ProofError(ValueError):
    """A proof that cannot be read, or does not prove what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A leaf beside the place that an absent example would have, with its audit path."""

    index: int
    leaf: ExampleLeaf
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleProof:
    """A proof as it was read. Of an example that is there: `steps` and so on; of one that is not: `neighbours`."""

    example: Mapping[str, Any]
    root: ExamplesRoot
    present: bool
    index: int = 0
    blind: bytes = b""
    steps: tuple[int, ...] = ()
    path: tuple[bytes, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


ProofCheck = Callable[[ExampleProof, ExamplesRoot], None]


def prove(examples: ExampleTree, example: Mapping[str, Any]) -> JsonDict:
    """The proof for an example, by whether it is in the tree."""
    key, root = key_of(example), examples.root()
    encoded = [leaf.encoded() for leaf in examples.leaves]
    shown = json.loads(canonical(example))  # a picture by its digest
    common: JsonDict = {"type": PROOF, "example": shown, "root": root.root, "count": root.count}
    place = _place(examples.keys, key)
    if place < len(examples.keys) and examples.keys[place] == key:
        path = [one.hex() for one in tree.audit_path(encoded, place)]
        blind, steps = blind_of(examples.secret, key).hex(), list(examples.steps[place])
        return common | {"kind": "present", "index": place, "blind": blind, "steps": steps, "path": path}
    beside = [at for at in (place - 1, place) if 0 <= at < len(encoded)]
    neighbours = [
        {
            "index": at,
            "key": examples.leaves[at].key.hex(),
            "commitment": examples.leaves[at].commitment.hex(),
            "path": [one.hex() for one in tree.audit_path(encoded, at)],
        }
        for at in beside
    ]
    return common | {"kind": "absent", "neighbours": neighbours}


def read_proof(raw: bytes) -> ExampleProof:
    """The proof in a JSON document. Raises ProofError."""
    if len(raw) > MAX_PROOF:
        raise ProofError(f"{len(raw)} bytes; a proof has at most {MAX_PROOF}")
    try:
        return _read(read_json(raw))
    except (JsonError, StatementError) as error:
        raise ProofError(str(error)) from None


def refuse_wrong(proof: ExampleProof, root: ExamplesRoot, *, checks: Mapping[str, ProofCheck] | None = None) -> None:
    """Raises ProofError unless the proof holds for the root that a recipe has."""
    for check in (CHECKS if checks is None else checks).values():
        check(proof, root)


def _of_this_recipe(proof: ExampleProof, root: ExamplesRoot) -> None:
    """Refuses a proof that names another root than the recipe's: its reader should see which one it was made for."""
    if proof.root != root:
        raise ProofError("the proof is about another recipe: its root or number of examples is another")


def _in_the_tree(proof: ExampleProof, root: ExamplesRoot) -> None:
    """Refuses leaves that the recipe's root does not hold at their places."""
    leaves = [(one.leaf, one.index, one.path) for one in proof.neighbours]
    if proof.present:
        leaves = [(leaf_of(key_of(proof.example), proof.blind, proof.steps), proof.index, proof.path)]
    for leaf, index, path in leaves:
        found = tree.root_of_path(leaf.encoded(), index=index, count=root.count, path=path)
        if found is None or found.hex() != root.root:
            raise ProofError(f"leaf {index} is not in the recipe's tree: example, steps or path are others")


def _no_room(proof: ExampleProof, root: ExamplesRoot) -> None:
    """Refuses neighbours that leave room: they have to be next to each other, or at an end, around the example."""
    if proof.present:
        return
    neighbours, key, count = proof.neighbours, key_of(proof.example), root.count
    before = [one for one in neighbours if one.leaf.key < key]
    after = [one for one in neighbours if one.leaf.key > key]
    if len(before) + len(after) != len(neighbours) or len(before) > 1 or len(after) > 1:
        raise ProofError("the example is one of its own neighbours, or both are on one side of it")
    last = before[0].index if before else -1
    following = after[0].index if after else count
    if following - last != 1:
        raise ProofError("other examples lie between the neighbours, and the example may be one of them")


CHECKS: Final[Mapping[str, ProofCheck]] = {
    "of_this_recipe": _of_this_recipe,
    "in_the_tree": _in_the_tree,
    "no_room": _no_room,
}


def _place(keys: Sequence[bytes], key: bytes) -> int:
    """Where the key is, or would be."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if keys[middle] < key else (low, middle)
    return low


def _read(document: Any) -> ExampleProof:
    top = fields.as_object(document, "proof")
    for key in repeated_keys(document):
        raise ProofError(f"key {key!r} appears twice")
    if top.get("type") != PROOF:
        raise ProofError(f"type is {top.get('type')!r}; this version reads {PROOF!r}")
    if unknown := sorted(set(top) - _FIELDS):
        raise ProofError(f"unknown field {unknown[0]!r}")
    present = fields.one_of(top, "kind", "proof", ("present", "absent")) == "present"
    example = fields.as_object(fields.field_of(top, "example", "proof"), "example")
    root = ExamplesRoot(count=fields.count(top, "count", "proof"), root=fields.hex(top, "root", "proof"))
    if not present:
        listed = fields.as_list(top, "neighbours", "proof")
        neighbours = tuple(_neighbour(entry, f"neighbours[{at}]") for at, entry in enumerate(listed))
        return ExampleProof(example=example, root=root, present=False, neighbours=neighbours)
    return ExampleProof(
        example=example,
        root=root,
        present=True,
        index=fields.count(top, "index", "proof"),
        blind=bytes.fromhex(fields.hex(top, "blind", "proof")),
        steps=fields.shape(top, "steps", "proof"),
        path=_path(top, "proof"),
    )


def _neighbour(entry: Any, at: str) -> Neighbour:
    value = fields.as_object(entry, at)
    if unknown := sorted(set(value) - _NEIGHBOUR):
        raise ProofError(f"{at}: unknown field {unknown[0]!r}")
    key, commitment = (bytes.fromhex(fields.hex(value, name, at)) for name in ("key", "commitment"))
    return Neighbour(index=fields.count(value, "index", at), leaf=ExampleLeaf(key, commitment), path=_path(value, at))


def _path(value: Mapping[str, Any], at: str) -> tuple[bytes, ...]:
    path = fields.as_list(value, "path", at)
    if not all(fields.is_hex(one) for one in path):
        raise ProofError(f"{at}.path: not a list of SHA-256 in hex")
    return tuple(bytes.fromhex(one) for one in path)


def to_text(proof: Mapping[str, Any]) -> str:
    """A proof as a file has it."""
    return json.dumps(proof, ensure_ascii=False, indent=1) + "\n"
