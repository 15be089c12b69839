"""The multilinear hash against the definition in big integers, and its promises about changes and shards."""

import hashlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.trainer.witness.multilinear import LANES, ROW, ROW_BYTES, finish, level_one, multilinear

SECRET = bytes(range(16))
M = 2**64


def reference(data: bytes, secret: bytes) -> tuple[int, ...]:
    """The definition, in Python's integers: rows of words, keys times words mod 2^64, until one sum is left."""
    lanes = [_words(data)] * LANES
    level = 0
    while True:
        sums = [
            [sum(k * x for k, x in zip(_keys(secret, level, lane), row, strict=True)) % M for row in _rows(lanes[lane])]
            for lane in range(LANES)
        ]
        if len(sums[0]) == 1:
            return tuple(lane[0] for lane in sums)
        lanes = [[half for s in lane for half in (s & 0xFFFFFFFF, s >> 32)] for lane in sums]
        level += 1


def _words(data: bytes) -> list[int]:
    data = data + bytes(-len(data) % 4)
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def _rows(words: list[int]) -> list[list[int]]:
    words = words + [0] * (-len(words) % ROW or (ROW if not words else 0))
    return [words[at : at + ROW] for at in range(0, len(words), ROW)]


def _keys(secret: bytes, level: int, lane: int) -> list[int]:
    stream = hashlib.shake_256(secret + bytes([level])).digest(8 * LANES * ROW)
    values = [int.from_bytes(stream[at : at + 8], "little") | 1 for at in range(0, len(stream), 8)]
    return values[lane * ROW : (lane + 1) * ROW]


def of(data: bytes, secret: bytes = SECRET) -> tuple[int, ...]:
    return multilinear(torch.frombuffer(bytearray(data), dtype=torch.uint8), secret)


@pytest.mark.parametrize("size", [1, 3, 4, 4095, 4096, 4097, 3 * ROW_BYTES + 5, 600 * ROW_BYTES + 1])
def test_equals_the_definition(size: int) -> None:
    """One level, two levels, three levels; whole words and broken ones; the highest bits set."""
    data = hashlib.shake_256(b"data").digest(size - 1) + b"\xff"
    assert of(data) == reference(data, SECRET)


def test_depends_on_the_secret() -> None:
    """Without the secret nobody can aim at a collision."""
    assert of(b"weights!") != of(b"weights!", bytes(16))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3 * ROW_BYTES), st.data())
def test_a_flipped_bit_is_always_seen(data: bytes, choice: st.DataObject) -> None:
    """Odd keys make every single changed word visible with certainty."""
    at = choice.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[at // 8] ^= 1 << at % 8
    assert of(bytes(flipped)) != of(data)


def test_two_sign_flips_are_seen() -> None:
    """The case that 64-bit words mod 2^64, and XOR of words, miss under every key."""
    x = torch.randn(64, dtype=torch.float64)
    y = x.clone()
    y[3], y[9] = -y[3], -y[9]
    assert multilinear(x.view(torch.uint8), SECRET) != multilinear(y.view(torch.uint8), SECRET)


def test_a_swap_is_seen() -> None:
    """Exchanging two words changes the sums, as their keys differ."""
    assert of(b"aaaabbbb") != of(b"bbbbaaaa")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9 * ROW_BYTES), st.lists(st.integers(0, 9 * ROW_BYTES), max_size=4))
def test_shards_add_up(size: int, cuts: list[int]) -> None:
    """However the bytes are cut, the shards' sums of the first level add up to the whole's, in any order."""
    data = torch.frombuffer(bytearray(hashlib.shake_256(b"x").digest(size)), dtype=torch.uint8)
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    shards = [
        level_one(data[start:stop], SECRET, offset=start, total=size) for start, stop in itertools.pairwise(edges)
    ]
    assert finish(sum(reversed(shards), torch.zeros_like(shards[0])), SECRET) == multilinear(data, SECRET)


def test_a_tensor_that_begins_within_a_word() -> None:
    """16-bit tensors may start at an odd address; the hash is that of their bytes."""
    whole = torch.randn(2001).bfloat16()
    assert multilinear(whole[1:].view(torch.uint8), SECRET) == multilinear(whole[1:].clone().view(torch.uint8), SECRET)
