"""Limits on seconds and memory for code that came with a model."""

from __future__ import annotations

import signal
import time

import pytest

from tests.patience import PATIENCE
from worker.trainer.data.bounds import OutOfBounds, bounded


def test_bounds_end_what_swallows_errors() -> None:
    """The first alarm may fall where every exception is caught; the next one comes."""
    with pytest.raises(OutOfBounds), bounded(seconds=0.05, nbytes=1 << 30):
        try:
            while True:
                time.sleep(0.001)
        except OutOfBounds:
            while True:
                time.sleep(0.001)


def test_bounds_leave_nothing_behind() -> None:
    """Afterwards no alarm is set, and there is as much memory as before."""
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(MemoryError), bounded(seconds=PATIENCE, nbytes=64 << 20):
        bytearray(1 << 30)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert len(bytearray(256 << 20)) == 256 << 20
