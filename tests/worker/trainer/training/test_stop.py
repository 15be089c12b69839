"""SIGTERM is noted and handled between steps."""

import os
import signal

import pytest

from worker.trainer.training.stop import StopRequest, TrainingStopped


def test_sigterm_sets_a_flag_inside_the_context() -> None:
    """The handler of before is put back at the end."""
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.raise_if_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(TrainingStopped, match="stopped after step 7") as stopped:
            stop.raise_if_requested(7)
    assert stopped.value.step == 7
    assert signal.getsignal(signal.SIGTERM) is before
