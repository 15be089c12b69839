"""The CUDA kernel of the multilinear hash, by triton's interpreter and its compiler."""

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

from tests.worker.trainer.witness.test_multilinear import SECRET, reference
from tools.peers import packages
from worker.trainer.witness.multilinear import ROW_BYTES, finish, multilinear


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


@pytest.mark.slow
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
