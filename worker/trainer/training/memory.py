"""Memory of host and device: how much is free, what the allocator keeps, and how to recover when it runs out."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 256 << 20  # bytes; the largest block that stays
GIVEN_BACK = 1 << 20  # bytes; from here on blocks go back, where weights are made anew in every pass


def ran_out(error: BaseException) -> bool:
    """Whether a device or the host ran out of memory; for the host torch raises a plain RuntimeError."""
    text = str(error)
    host = "DefaultCPUAllocator" in text and ("can't allocate memory" in text or "not enough memory" in text)
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and host)


def generators(device: torch.device) -> list[Tensor]:
    """The states of the generators that a pass on this device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def give_back(device: torch.device, drawn: list[Tensor]) -> None:
    """Restore the generators' states, and return the allocator's cached blocks to the device."""
    torch.set_rng_state(drawn[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(drawn[1], device)
        torch.cuda.empty_cache()


def tidy() -> None:
    """Return the memory of loading and trial passes to the host, which the allocator would keep otherwise."""
    gc.collect()
    _glibc("malloc_trim", 0)


def keep_freed() -> None:
    """Let this process's allocator keep what is freed from here on: each step asks for the same sizes again.

    glibc gives a block of 32 MiB or more back at once, and the kernel fills each page with zeros when it is next
    touched. Larger ones than KEPT still go back: a hole of theirs that nothing fits into would cost too much.
    Source: mallopt(3).
    """
    thresholds(own_block=KEPT, end_of_heap=2**31 - 1)


def give_back_blocks() -> None:
    """Let this process's allocator give each larger block back at once: for quantised bases.

    Every pass makes each weight anew for a moment. Kept blocks of these sizes leave holes, which on a small model come
    to more than the codes themselves; the kernel's zeroed pages cost a fifth of a step's time.
    """
    thresholds(own_block=GIVEN_BACK, end_of_heap=64 << 20)


def thresholds(*, own_block: int, end_of_heap: int) -> None:
    """Set from how many bytes on a freed block, and free memory at the end of the heap, go back to the kernel."""
    _glibc("mallopt", M_MMAP_THRESHOLD, own_block)
    _glibc("mallopt", M_TRIM_THRESHOLD, end_of_heap)


def _glibc(name: str, *arguments: int) -> None:
    """Other C libraries have no such call, and stay as they are."""
    call = getattr(ctypes.CDLL(None), name, None)
    if call is not None:
        call(*arguments)


def free_host_bytes() -> int:
    """What the kernel could give without swapping."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
