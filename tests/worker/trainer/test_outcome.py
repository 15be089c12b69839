"""How an attempt ends: exit codes and reports."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from app.errors import ModelError
from tests.worker.trainer.attempts import AFFINE, affine_order, attempt
from worker.protocol import EXIT_DEVICE_LOST, EXIT_FAILED, EXIT_NO_ROOM, EXIT_STOPPED, Report, Reporter, read_reports
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine
from worker.trainer.outcome import device_is_lost, exit_codes
from worker.trainer.training.stop import TrainingStopped


def test_bad_line_is_named(tmp_path: Path) -> None:
    """Line, field and message of the data's problem are in the report."""
    rows = [{"x": [1.0] * 10, "y": [1.0] * 10} for _ in range(4)]
    rows[2]["x"] = [1.0] * 9 + ["tea"]  # type: ignore[list-item]
    done = attempt(affine_order(tmp_path, rows=rows), tmp_path)
    problem = done.failure["errors"][0]
    assert (done.failure["code"], problem["line"], problem["field"]) == ("invalid_training_data", 3, "x[9]")


class Interrupted(Affine):
    """Somebody wants the process to stop while this is being built."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        os.kill(os.getpid(), signal.SIGTERM)


def test_stop_while_loading_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM before the first step: exit 75, and nothing to save."""
    monkeypatch.setitem(architectures.OURS, "interrupted", Interrupted)
    done = attempt(affine_order(tmp_path, model=AFFINE | {"architecture": "interrupted"}), tmp_path)
    assert done.code == 75
    assert list(done.place.checkpoints.iterdir()) == []
    assert done.of("step") == []


def ended(tmp_path: Path, error: Exception, *, rank: int = 0) -> tuple[int, list[Report]]:
    """The exit code for an error, and what was reported."""
    path = tmp_path / f"reports-{rank}.jsonl"
    with Reporter(path) as reporter, pytest.raises(SystemExit) as ending, exit_codes(reporter, rank=rank):
        raise error
    assert isinstance(ending.value.code, int)
    return ending.value.code, read_reports(path)[0]


def test_a_refusal_is_reported_with_its_fields(tmp_path: Path) -> None:
    """Code, message and parameter, and the rank if it is not the first; the job is not tried again."""
    code, (failed,) = ended(tmp_path, ModelError("no such folder", param="model.path"), rank=2)
    assert code == EXIT_FAILED
    assert (failed["type"], failed["message"], failed["param"]) == ("failed", "no such folder", "model.path")
    assert failed["rank"] == 2


def test_a_request_to_stop_is_reported_by_the_first_rank(tmp_path: Path) -> None:
    """The others end with the same code and say nothing."""
    code, (event,) = ended(tmp_path, TrainingStopped(7))
    assert (code, event["message"]) == (EXIT_STOPPED, "stopped on request after step 7")
    assert ended(tmp_path, TrainingStopped(7), rank=1) == (EXIT_STOPPED, [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_a_code_of_its_own(tmp_path: Path, number: int) -> None:
    """The job waits for room. A report might find none either."""
    assert ended(tmp_path, OSError(number, "no room")) == (EXIT_NO_ROOM, [])


def test_out_of_memory_names_the_batch(tmp_path: Path) -> None:
    code, (failed,) = ended(tmp_path, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    assert (code, failed["code"], failed["param"]) == (EXIT_FAILED, "out_of_memory", "hyperparameters.batch_size")


def test_a_lost_device_is_no_fault_of_the_job(tmp_path: Path) -> None:
    """Another device may do it; an assertion in a kernel comes from the job's own numbers."""
    code, (event,) = ended(tmp_path, RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore"))
    assert (code, event["level"]) == (EXIT_DEVICE_LOST, "error")
    assert event["message"] == "the device is lost: CUDA error: uncorrectable ECC error encountered"
    assert not device_is_lost(RuntimeError("CUDA error: device-side assert triggered"))
    assert not device_is_lost(RuntimeError("unknown error"))


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "input/output error"), RuntimeError("CUDA error: launch failure")]
)
def test_what_a_retry_may_cure_is_raised_again(tmp_path: Path, error: Exception) -> None:
    """The traceback goes into the log, and the supervisor counts a crash."""
    path = tmp_path / "reports.jsonl"
    with Reporter(path) as reporter, pytest.raises(type(error)), exit_codes(reporter, rank=0):
        raise error
    assert read_reports(path)[0] == []
