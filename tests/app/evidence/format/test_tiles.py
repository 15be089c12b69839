"""The tree of a log by its tiles, beside a library that nobody here wrote."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from app.evidence.format.tiles import (
    HASH,
    TileError,
    TilePath,
    Tree,
    bundle,
    entries_of,
    fold,
    leaf_hash,
    paths_between,
    root_of_path,
    roots_of_consistency,
)

ENTRIES = [b"%d" % at for at in range(700)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
FULL = [fold(LEAVES[at : at + 256]) for at in (0, 256)]
PEER = InmemoryTree(algorithm="sha256")
for each in ENTRIES:
    PEER.append_entry(each)


def tree(size: int) -> Tree:
    def read(level: int, index: int, width: int) -> bytes:
        hashes = (LEAVES, FULL)[level][index * 256 : index * 256 + width]
        assert len(hashes) == width, "it asked for hashes that a log of this size does not have"
        return b"".join(hashes)

    return Tree(size, read)


@settings(max_examples=40)
@given(st.data())
def test_roots_and_proofs_are_those_of_rfc_9162(data: st.DataObject) -> None:
    """Of every size, entry and beginning; and verification leads to the very roots."""
    size = data.draw(st.integers(1, len(ENTRIES)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    log, root, old_root = tree(size), PEER.get_root(size), PEER.get_root(old)
    assert log.root() == root
    path = log.inclusion(index)
    assert root_of_path(LEAVES[index], index=index, size=size, path=path) == root
    theirs = PEER.prove_inclusion(index + 1, size)
    assert path == [bytes(each) for each in theirs.path][1:]
    assert roots_of_consistency(old, size, log.consistency(old), old_root) == (old_root, root)


@settings(max_examples=40)
@given(st.data())
def test_no_other_proof_leads_there(data: st.DataObject) -> None:
    """With a hash changed, dropped or added, or another place: another root, or none."""
    size = data.draw(st.integers(2, len(ENTRIES)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    root, old_root = PEER.get_root(size), PEER.get_root(old)
    path, steps = tree(size).inclusion(index), tree(size).consistency(old)
    at = data.draw(st.integers(0, len(path) - 1))
    flipped = bytes([path[at][0] ^ 1]) + path[at][1:]
    for wrong in ([*path[:at], flipped, *path[at + 1 :]], path[:at] + path[at + 1 :], [*path, bytes(HASH)]):
        assert root_of_path(LEAVES[index], index=index, size=size, path=wrong) != root
    assert root_of_path(LEAVES[index], index=index ^ 1, size=size, path=path) != root
    at = data.draw(st.integers(0, len(steps) - 1))
    flipped = bytes([steps[at][0] ^ 1]) + steps[at][1:]
    for wrong in ([*steps[:at], flipped, *steps[at + 1 :]], steps[:at] + steps[at + 1 :], [*steps, bytes(HASH)]):
        assert roots_of_consistency(old, size, wrong, old_root) != (old_root, root)
    forked = hashlib.sha256(old_root).digest()
    assert roots_of_consistency(old, size, steps, forked) != (forked, root)


def test_places_and_sizes_out_of_reach() -> None:
    """Refused by name, or no root at all; an empty log has the root of nothing."""
    assert Tree(0, tree(1).read).root() == hashlib.sha256().digest()
    for index in (-1, 3):
        with pytest.raises(TileError, match="not in a log of 3 entries"):
            tree(3).inclusion(index)
        assert root_of_path(LEAVES[0], index=index, size=3, path=[]) is None
    for old in (0, 4):
        with pytest.raises(TileError, match="no beginning"):
            tree(3).consistency(old)
        assert roots_of_consistency(old, 3, [bytes(HASH)], bytes(HASH)) is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (TilePath(0, 0), "tile/0/000"),
        (TilePath(2, 1234067), "tile/2/x001/x234/067"),
        (TilePath(None, 999, 17), "tile/entries/999.p/17"),
        (TilePath(63, 1000, 1), "tile/63/x001/000.p/1"),
    ],
)
def test_paths_are_those_of_the_specification(path: TilePath, text: str) -> None:
    """In both directions."""
    assert str(path) == text and TilePath.parse(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/0/x000/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/../000",
        "tile/0/001/000",
        "tile/0/\u0661\u0661\u0661",
        "tile/entries",
        "tile/0/000\n",
    ],
)
def test_other_spellings_are_no_tiles(text: str) -> None:
    """So that each tile has one address, within its folder."""
    assert TilePath.parse(text) is None


def test_the_specifications_example_of_70000_entries() -> None:
    """273 full tiles and one of 112; one full tile and one of 17; one of 1."""
    paths = list(paths_between(0, 70_000))
    assert [str(path) for path in paths[272:]] == [
        "tile/0/272",
        "tile/0/273.p/112",
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert [str(path) for path in paths_between(69_999, 70_000)] == ["tile/0/273.p/112"]


def test_bundles_of_entries() -> None:
    """Each after its length; one that ends within an entry is refused."""
    raw = bundle([b"", b"a" * 300])
    assert entries_of(raw) == [b"", b"a" * 300]
    for cut in (raw[:-1], raw[:3]):
        with pytest.raises(TileError):
            entries_of(cut)
