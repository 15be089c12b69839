"""An end to somebody else's code that computes on our behalf: seconds, and bytes that it may take on top."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PAGE = resource.getpagesize()


class OutOfBounds(Exception):  # not an OSError or a ValueError, which templates and tokenizers catch
    """It took longer than it may."""


@contextmanager
def bounded(*, seconds: float, nbytes: int) -> Iterator[None]:
    """Raises OutOfBounds or MemoryError where the block takes more. For Python code, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + nbytes
    before = signal.signal(signal.SIGALRM, _over)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # again and again, should something swallow the first
    try:
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def _over(number: int, frame: FrameType | None) -> None:
    raise OutOfBounds("it took too long")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
