"""All that is measured on a lent GPU, in at most nine minutes: tests first, then training, looks, nccl and the kernel.

Training is of a Llama shape with 1.1 billion random weights in bf16: three quarters frozen, with LoRA, and in full,
ours beside the HF Trainer, each in a process of its own. Parts that the time does not suffice for are named as not run.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable

import torch
import torch.distributed as dist

from benchmarks.alone import OURS, measured
from benchmarks.figure import Figure
from benchmarks.loops import HF
from benchmarks.work import gpu_cases, gpu_more_cases
from demo.service import free_port
from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.multilinear import LANES, ROW, multilinear

SECONDS = 540.0
TEST_SECONDS = 150.0
CASE_SECONDS = 75.0  # that one more case of both ways may take
LOOKED_AT = 4 << 30  # bytes
SIZES = (4, 4097, 5 * 4096 + 6, 1 << 22)  # bytes of what the kernel hashes
TESTS = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"]


def figures() -> Iterable[Figure]:
    if not torch.cuda.is_available():
        yield Figure("everything on a GPU", "not run", "", "no CUDA device here")
        return
    ends = time.monotonic() + SECONDS
    yield tests()
    yield kernel(torch.device("cuda"))
    yield from looks(torch.device("cuda"), LOOKED_AT)
    yield nccl()
    yield from training(ends)


def tests() -> Figure:
    """pytest's own last line."""
    try:
        done = subprocess.run(TESTS, capture_output=True, text=True, timeout=TEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Figure("tests that need a GPU", "not ended", "", f"stopped after {TEST_SECONDS:.0f} s")
    lines = done.stdout.strip().splitlines() or ["no output"]
    return Figure("tests that need a GPU", lines[-1], "", "all passed")


def kernel(device: torch.device) -> Figure:
    """How many hashes of the device's kernel are those of Python's integers."""
    secret, same = bytes(range(16)), 0
    for size in SIZES:
        data = hashlib.shake_256(size.to_bytes(4, "little")).digest(size)
        found = multilinear(torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device), secret)
        same += found == by_integers(data, secret)
    return Figure("hashes by the kernel that are those of big integers", same, "", len(SIZES))


def by_integers(data: bytes, secret: bytes) -> tuple[int, ...]:
    """The multilinear hash by its definition, with nothing of torch."""
    lanes, level = [_words(data)] * LANES, 0
    while True:
        keys = _words(hashlib.shake_256(secret + level.to_bytes(1, "little")).digest(8 * LANES * ROW), 8)
        lanes = [_sums(words, keys[lane * ROW : (lane + 1) * ROW]) for lane, words in enumerate(lanes)]
        if len(lanes[0]) == 1:
            return tuple(lane[0] for lane in lanes)
        lanes = [_words(b"".join(total.to_bytes(8, "little") for total in lane)) for lane in lanes]
        level += 1


def _words(data: bytes, size: int = 4) -> list[int]:
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def _sums(words: list[int], keys: list[int]) -> list[int]:
    rows = range(0, max(1, len(words)), ROW)
    return [sum((k | 1) * w for k, w in zip(keys, words[at : at + ROW], strict=False)) % 2**64 for at in rows]


def looks(device: torch.device, size: int) -> Iterable[Figure]:
    """One look of the witness at so many frozen bytes, and the device's own copy of them."""
    tensor = torch.empty(size, dtype=torch.uint8, device=device)
    target, prints = torch.empty_like(tensor), Fingerprints()
    copied = size / 1e9 / _seconds(lambda: target.copy_(tensor), device)
    looked = size / 1e9 / _seconds(lambda: prints.take(tensor), device)
    yield Figure("a look at frozen bytes", looked, "GB/s", f"{copied:,.0f} for copying them")


def _seconds(work: object, device: torch.device) -> float:
    assert callable(work)
    taken = []
    for _ in range(5):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def nccl() -> Figure:
    """A group of one rank adds up a gigabyte."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        values = torch.ones(1 << 28, device="cuda")
        seconds = _seconds(lambda: dist.all_reduce(values), torch.device("cuda"))
        right = bool((values == 1).all())
    finally:
        dist.destroy_process_group()
    outcome = "the same values" if right else "other values"
    return Figure("nccl on one device: a gigabyte added up", 1e3 * seconds, "ms", outcome)


def training(ends: float) -> Iterable[Figure]:
    """Tokens per second and peak memory beside the HF Trainer's."""
    live, kept = gpu_cases()
    for case in (live, kept, *gpu_more_cases()):
        if time.monotonic() + CASE_SECONDS > ends:
            yield Figure(f"{case.name}: tokens per second", "not run", "", "no time was left")
            continue
        mine, theirs = measured(case, OURS), None if case is kept else measured(case, HF)
        speed = f"{theirs['tokens_per_second']:,.0f} for {HF}" if theirs else "the case above"
        memory = f"{theirs['peak_bytes'] / 1e9:.2f} for {HF}" if theirs else "the case above"
        yield Figure(f"{case.name}: tokens per second", mine["tokens_per_second"], "1/s", speed)
        yield Figure(f"{case.name}: peak memory", mine["peak_bytes"] / 1e9, "GB", memory)
