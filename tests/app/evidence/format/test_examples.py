"""The tree over training examples: its keys, its blinding, its order."""

import hashlib

import pytest

from app.evidence.format.examples import ExampleTree, blind_of, canonical, key_of, leaf_of, secret_of


def test_canonical_form_is_one_for_each_example() -> None:
    """Whatever the order of its fields; a picture counts by its digest."""
    assert canonical({"b": 1.0, "a": "ü"}) == '{"a":"ü","b":1.0}'.encode()
    assert key_of({"b": 1.0, "a": "ü"}) == key_of({"a": "ü", "b": 1.0})
    picture = b"\x89PNG"
    by_digest = {"image": {"sha256": hashlib.sha256(picture).hexdigest()}, "label": "a"}
    assert key_of({"image": picture, "label": "a"}) == key_of(by_digest)
    with pytest.raises(TypeError, match="an example has no set"):
        canonical({"a": {1}})


def test_the_root_does_not_depend_on_the_order_of_lines() -> None:
    """And does depend on the steps; equal examples share a leaf with the steps of all."""
    one, two = key_of({"text": "a"}), key_of({"text": "b"})
    tree = ExampleTree.of({one: [1, 4], two: [2]})
    assert tree.root() == ExampleTree.of({two: [2], one: [4, 1]}).root()
    assert tree.root().root != ExampleTree.of({one: [1], two: [2]}).root().root
    assert tree.root().count == 2


def test_leaves_are_blinded_by_what_all_examples_give() -> None:
    """The same example with the same steps has another leaf in another data set."""
    key = key_of({"text": "a"})
    secrets = [secret_of([key]), secret_of([key, b"x" * 32])]
    leaves = [leaf_of(key, blind_of(secret, key), (1, 2)) for secret in secrets]
    assert leaves[0].commitment != leaves[1].commitment
    assert leaves[0].encoded().endswith(leaves[0].key + leaves[0].commitment)
