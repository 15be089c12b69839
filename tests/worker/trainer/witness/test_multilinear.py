"""The multilinear hash against the definition in big integers, and its promises about changes and shards."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.peers import packages
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


def test_the_kernel_computes_the_same() -> None:
    """Triton's interpreter runs the CUDA kernel: the definition's sums, for any length, start and shard."""
    stream = hashlib.shake_256(b"kernel").digest(9 * ROW_BYTES) + b"\xff" * 5
    cases = [(stream[:size], skip) for size in (2, 4, 4095, 4097, 3 * ROW_BYTES + 5) for skip in (0, 1)]
    given = [whole(data, skip) for data, skip in cases]
    edges = [0, 4, ROW_BYTES - 4, ROW_BYTES + 8, 5 * ROW_BYTES, len(stream)]
    shards = [
        {"data": stream[a:b].hex(), "skip": 0, "offset": a, "total": len(stream), "secret": SECRET.hex()}
        for a, b in itertools.pairwise(edges)
    ]
    answers = interpreted([*given, *shards])
    for (data, skip), answer in zip(cases, answers, strict=False):
        assert tuple(answer["hash"]) == reference(data[skip:], SECRET)
    parts = [torch.tensor(answer["sums"]) for answer in answers[len(given) :]]
    assert finish(sum(parts, torch.zeros_like(parts[0])), SECRET) == reference(stream, SECRET)


def test_the_kernel_compiles_for_the_device(tmp_path: Path) -> None:
    """Down to machine code, which needs no device; each thread loads its four words of aligned data at once."""
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{packages('triton')}", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ld.global.v4.b32" in done.stdout


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from worker.trainer.witness.kernel import WARPS, _sums

types = {"data": "*i32", "keys": "*i64", "sums": "*i64", "words": "i64", "lead": "i32", "rows": "i32"}
aligned = {(at,): [["tt.divisibility", 16]] for at in range(5)}
source = ASTSource(fn=_sums, signature={**types, "width": "constexpr"}, constexprs={"width": 1024}, attrs=aligned)
made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
assert made.asm["cubin"]
print(made.asm["ptx"])
"""


def whole(data: bytes, skip: int) -> dict[str, Any]:
    return {"data": data.hex(), "skip": skip, "offset": 0, "total": len(data) - skip, "secret": SECRET.hex()}


def interpreted(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{Path.cwd()}:{packages('triton')}"}
    command = [sys.executable, "-m", "tests.worker.trainer.witness.interpreted_kernel"]
    done = subprocess.run(
        command, input=json.dumps(cases), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_computes_the_same() -> None:
    """CUDA's integer arithmetic gives the CPU's sums."""
    data = torch.randint(0, 256, (5 * ROW_BYTES + 7,), dtype=torch.uint8)
    assert multilinear(data.cuda(), SECRET) == multilinear(data, SECRET)
