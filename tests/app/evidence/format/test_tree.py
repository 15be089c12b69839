import hashlib
from typing import Any

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evidence.format.statement import Reading
from app.evidence.format.tree import audit_path, leaf, merkle_root, root, root_of_path
from tests.app.evidence import strategies


def by_the_rfc(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as it is written there."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + by_the_rfc(leaves[:split]) + by_the_rfc(leaves[split:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_root_is_the_rfcs(leaves: list[bytes]) -> None:
    """The level-by-level way gives the recursive definition's root."""
    assert merkle_root(leaves) == by_the_rfc(leaves)


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=20))
def test_pymerkle_agrees(leaves: list[bytes]) -> None:
    """An implementation that nobody here wrote."""
    other = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in leaves:
        other.append_entry(entry)
    assert merkle_root(leaves) == other.get_root()


@given(st.lists(strategies.readings(), max_size=8, unique_by=lambda reading: reading.name), st.randoms())
def test_root_does_not_depend_on_order(readings: list[Reading], random: Any) -> None:
    """Nor, then, on shards or on the order in a file."""
    shuffled = list(readings)
    random.shuffle(shuffled)
    assert root(shuffled) == root(readings)


@given(strategies.readings(), strategies.readings())
def test_leaves_of_different_readings_differ(one: Reading, other: Reading) -> None:
    """Name, dtype, shape, size and digest are all in the leaf, with nothing that could run into its neighbour."""
    assert (leaf(one) == leaf(other)) == (one == other)


@pytest.mark.parametrize(
    "change",
    [{"name": "b"}, {"dtype": "I32"}, {"shape": (4, 1)}, {"shape": (2, 2, 1)}, {"nbytes": 17}, {"sha256": "1" * 64}],
)
def test_root_binds_every_field(change: dict[str, Any]) -> None:
    """Renaming, another dtype or shape over the same bytes: another root."""
    reading = Reading("a", "F32", (2, 2), 16, "0" * 64)
    assert root([reading]) != root([reading._replace(**change)])


def test_the_leaf_is_written_down() -> None:
    """The format as documented, byte by byte: it can never change."""
    made = leaf(Reading("é", "F32", (2, 3), 24, "ab" * 32))
    assert made == (
        b"frozen-parameters/v1/leaf\0"
        b"\0\0\0\2\xc3\xa9"
        b"\0\0\0\3F32"
        b"\0\0\0\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3"
        b"\0\0\0\0\0\0\0\x18" + b"\xab" * 32
    )


def test_two_tensors_of_one_name_have_no_root() -> None:
    """Otherwise the order among them would decide."""
    reading = Reading("a", "F32", (), 4, "0" * 64)
    with pytest.raises(ValueError, match="'a'"):
        root([reading, reading._replace(sha256="1" * 64)])


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=20), st.data())
def test_a_path_leads_to_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    """From each leaf, and from no other place, leaf or length; pymerkle has the same hashes on the way."""
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, count = audit_path(leaves, index), len(leaves)
    assert root_of_path(leaves[index], index=index, count=count, path=path) == merkle_root(leaves)
    other = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in leaves:
        other.append_entry(entry)
    assert path == other.prove_inclusion(index + 1, count).path[1:]
    assert root_of_path(leaves[index] + b"x", index=index, count=count, path=path) != merkle_root(leaves)
    assert root_of_path(leaves[index], index=index, count=count, path=[*path, b"\0" * 32]) is None
    assert root_of_path(leaves[index], index=count, count=count, path=path) is None
    assert not path or root_of_path(leaves[index], index=index, count=count, path=path[1:]) != merkle_root(leaves)
