"""Memory goes back to the host, and kept memory is not asked for again."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worker.trainer.training import memory


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages in /proc")
def test_freed_memory_goes_back_to_the_host() -> None:
    """Also from under what is still in use, which the allocator by itself would keep."""
    blocks = [torch.ones(16_384) for _ in range(2_000)]
    last = blocks.pop()
    full = _resident()
    del blocks
    memory.tidy()
    assert full - _resident() > 100e6
    assert last.sum() == len(last)


FAULTS = """
import resource, torch
from worker.trainer.training import memory

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = min(touched() for _ in range(3))
memory.keep_freed()
print(plain, [touched() for _ in range(40)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such setting")
def test_kept_memory_is_not_asked_for_again() -> None:
    """A tensor of one size again and again: new pages each time; then the same ones, once small holes are filled."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert plain > 10 * (kept + 1), done.stdout


GIVEN_BACK = """
import resource, torch
from worker.trainer.training import memory

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 20)  # 4 MiB, a weight made anew
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.WAY()
print([touched() for _ in range(40)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such setting")
def test_blocks_that_are_given_back_leave_no_holes() -> None:
    """A tensor of the size of a weight gets new pages each time, and none of them stays."""
    faults = {}
    for way in ("keep_freed", "give_back_blocks"):
        program = GIVEN_BACK.replace("WAY", way)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        faults[way] = int(done.stdout)
    assert faults["give_back_blocks"] > 10 * (faults["keep_freed"] + 1), faults


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
