"""How an attempt ends: the report and the exit code for each kind of error."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import PermafrostError
from worker.protocol import EXIT_DEVICE_LOST, EXIT_FAILED, EXIT_NO_ROOM, EXIT_STOPPED, Reporter
from worker.trainer.checkpoint import NO_ROOM
from worker.trainer.recurring import recurring
from worker.trainer.training import compiling, memory
from worker.trainer.training.stop import TrainingStopped

#: Messages of cudaGetErrorString for failed hardware or a failed driver.
LOST_DEVICE = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "device(s) is/are busy or unavailable",
    "no CUDA-capable device",
    "hardware stack error",
    "system not yet initialized",
    "unknown error",
)


class OutOfMemory(PermafrostError):
    """The device has too little memory for this model and batch."""

    code = "out_of_memory"


@contextmanager
def exit_codes(reporter: Reporter, *, rank: int) -> Iterator[None]:
    """Turns errors that have a report into SystemExit with the exit code of their kind.

    An exception that every attempt would raise ends the job, too, with a report of the library's words. Any other one,
    about a device or the system, leaves a traceback in the log, and the supervisor counts a crash and tries again.
    """
    try:
        yield
    except TrainingStopped as stopped:
        if not rank:
            reporter.event(f"stopped on request after step {stopped.step}", step=stopped.step)
        raise SystemExit(EXIT_STOPPED) from None
    except PermafrostError as error:
        _report_failure(reporter, error, rank)
        raise SystemExit(EXIT_FAILED) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"no room on the disk: {error}", flush=True)  # there may be no room for a report either
        raise SystemExit(EXIT_NO_ROOM) from error
    except Exception as error:
        raise SystemExit(_of_other_error(error, reporter, rank)) from error


def device_is_lost(error: Exception) -> bool:
    """Whether CUDA reports a failed device, and not an error of the model such as an assertion in a kernel."""
    text = str(error)
    return "CUDA" in text and any(message in text for message in LOST_DEVICE)


def rank_of_process() -> int:
    """This process's rank in its group; 0 for a process on its own."""
    return int(os.environ.get("RANK", "0"))


def _of_other_error(error: Exception, reporter: Reporter, rank: int) -> int:
    """The exit code for an exception of a library, or of our own; raises it again where a retry may help."""
    if memory.ran_out(error):
        _report_failure(reporter, OutOfMemory(str(error), param="hyperparameters.batch_size"), rank)
        return EXIT_FAILED

    if device_is_lost(error):
        reporter.event(f"the device is lost: {str(error).splitlines()[0]}", level="error")
        return EXIT_DEVICE_LOST

    failure = compiling.refusal(error) or recurring(error)
    if failure is None:
        raise error
    traceback.print_exc()
    _report_failure(reporter, failure, rank)
    return EXIT_FAILED


def _report_failure(reporter: Reporter, error: PermafrostError, rank: int) -> None:
    origin = {"rank": rank} if rank else {}
    reporter.report("failed", code=error.code, message=error.message, param=error.param, errors=error.errors, **origin)
