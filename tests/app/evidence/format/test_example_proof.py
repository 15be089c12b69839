"""Proofs about examples: what is true is proved, and every way to bend one is refused by a check that is needed."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.evidence.format.example_proof import CHECKS, ProofError, prove, read_proof, refuse_wrong, to_text
from app.evidence.format.examples import ExamplesRoot, ExampleTree, key_of

NAMES = "abcdefghijk"
STEPS = {name: [1 + at % 3, 5 + at % 2] for at, name in enumerate(NAMES)}
TREE = ExampleTree.of({key_of({"text": name}): steps for name, steps in STEPS.items()})
OTHER = ExampleTree.of({key_of({"text": name}): [9] for name in "xyz"})


def checked(proof: Any, root: ExamplesRoot | None = None, without: str | None = None) -> None:
    checks = {name: check for name, check in CHECKS.items() if name != without}
    refuse_wrong(read_proof(to_text(proof).encode()), root or TREE.root(), checks=checks)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_proved_with_its_steps(name: str) -> None:
    """Each one of an odd number, with the steps at which it was trained on."""
    proof = prove(TREE, {"text": name})
    assert (proof["kind"], proof["steps"]) == ("present", STEPS[name])
    checked(proof)


@pytest.mark.parametrize("size", [0, 1, 2, 5])
@pytest.mark.parametrize("name", ["m", "n", "o", "p", "q", "r"])
def test_an_absent_example_is_proved_absent(name: str, size: int) -> None:
    """Between two others, before the first, after the last, and of no others."""
    tree = ExampleTree.of({key_of({"text": one}): [1] for one in NAMES[:size]})
    proof = prove(tree, {"text": name})
    assert proof["kind"] == "absent"
    checked(proof, tree.root())


def test_a_proof_shows_no_other_example() -> None:
    """Nor the steps of one: of an example that is there hashes alone, of one that is not the digests of two."""
    keys = {key.hex() for key in TREE.keys}
    present, absent = (to_text(prove(TREE, {"text": name})) for name in ("a", "nowhere"))
    assert sum(key in present for key in keys) == 0
    assert sum(key in absent for key in keys) <= 2
    assert "steps" not in absent


def _neighbour(at: int) -> Any:
    """An honest neighbour of an absent example, for any place."""
    from app.evidence.format import tree

    encoded = [leaf.encoded() for leaf in TREE.leaves]
    leaf, path = TREE.leaves[at], [one.hex() for one in tree.audit_path(encoded, at)]
    return {"index": at, "key": leaf.key.hex(), "commitment": leaf.commitment.hex(), "path": path}


def hidden() -> Any:
    """An example that is there, offered as absent: its own neighbours, two places apart."""
    at = TREE.keys.index(key_of({"text": "f"}))
    return absent({"text": "f"}, [_neighbour(one) for one in (at - 1, at + 1) if 0 <= one < len(TREE.keys)])


def absent(example: Any, neighbours: list[Any]) -> Any:
    root = TREE.root()
    common = {"type": "urn:permafrost:example-proof:v1", "root": root.root, "count": root.count}
    return common | {"kind": "absent", "example": example, "neighbours": neighbours}


def bent(change: Callable[[Any], Any]) -> Any:
    proof = prove(TREE, {"text": "f"})
    change(proof)
    return proof


ATTACKS: list[tuple[str, Any, str]] = [
    ("another example", bent(lambda one: one.update(example={"text": "z"})), "in_the_tree"),
    ("other steps", bent(lambda one: one["steps"].append(7)), "in_the_tree"),
    ("another place", bent(lambda one: one.update(index=(one["index"] + 1) % len(NAMES))), "in_the_tree"),
    ("a place beyond the tree", bent(lambda one: one.update(index=len(NAMES))), "in_the_tree"),
    ("a shorter path", bent(lambda one: one["path"].pop()), "in_the_tree"),
    ("a longer path", bent(lambda one: one["path"].append("00" * 32)), "in_the_tree"),
    ("another root", bent(lambda one: one.update(root="00" * 32)), "of_this_recipe"),
    ("another count", bent(lambda one: one.update(count=1_000)), "of_this_recipe"),
    ("an example that is there as absent", hidden(), "no_room"),
    ("an absence without neighbours", absent({"text": "f"}, []), "no_room"),
    ("both neighbours on one side", absent({"text": "f"}, [_neighbour(0), _neighbour(0)]), "no_room"),
]


@pytest.mark.parametrize(("proof", "check"), [pytest.param(*rest, id=name) for name, *rest in ATTACKS])
def test_a_bent_proof_is_refused_by_a_check_that_is_needed(proof: Any, check: str) -> None:
    """With this one check taken out it would be accepted."""
    with pytest.raises(ProofError):
        checked(proof)
    checked(proof, without=check)


def test_every_check_is_needed() -> None:
    """There is a proof that each one alone stands against."""
    assert {check for _, _, check in ATTACKS} == set(CHECKS)


def test_a_proof_for_another_recipe_is_refused() -> None:
    """It names the root that it was made for, and that is another."""
    with pytest.raises(ProofError, match="about another recipe"):
        checked(prove(OTHER, {"text": "x"}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda one: one.update(type="urn:permafrost:example-proof:v9"), "v9"),
        (lambda one: one.update(kind="maybe"), "'maybe' is not one of"),
        (lambda one: one.update(more=1), "unknown field 'more'"),
        (lambda one: one.update(steps=[-1]), "steps"),
        (lambda one: one.update(path=["x"]), "path"),
        (lambda one: one.update(blind="x"), "blind"),
        (lambda one: one.pop("example"), "example: missing"),
    ],
)
def test_a_proof_that_cannot_be_read_is_named(change: Callable[[Any], Any], named: str) -> None:
    """By the field, and by the version where it is a newer one."""
    with pytest.raises(ProofError, match=named):
        read_proof(json.dumps(bent(change)).encode())


def test_unreadable_bytes_are_refused() -> None:
    """No JSON, a key twice, a neighbour with a field too many."""
    with pytest.raises(ProofError, match="not valid JSON"):
        read_proof(b"{")
    with pytest.raises(ProofError, match="appears twice"):
        read_proof(b'{"type":1,"type":2}')
    with pytest.raises(ProofError, match="unknown field 'x'"):
        read_proof(json.dumps(absent({}, [_neighbour(0) | {"x": 1}])).encode())
