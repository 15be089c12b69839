"""A limit on seconds and memory for code that came with a model, such as a chat template."""

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
    """The code ran past its time limit."""


@contextmanager
def bounded(*, seconds: float, nbytes: int) -> Iterator[None]:
    """Raises OutOfBounds after `seconds`, MemoryError where the block allocates more than `nbytes` on top.

    It interrupts Python code in the main thread; in other threads it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceiling = _address_space() + nbytes
    previous_handler = signal.signal(signal.SIGALRM, _raise_out_of_bounds)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # repeated, in case the code swallows the first exception

    try:
        if soft == resource.RLIM_INFINITY or ceiling < soft:
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, hard))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, previous_handler)


def _raise_out_of_bounds(number: int, frame: FrameType | None) -> None:
    raise OutOfBounds("it took too long")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
