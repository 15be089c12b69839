"""Exceptions that come again end a job at its first attempt, with the library's words; others are tried again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.worker.trainer.attempts import Attempt, affine_order, attempt
from worker.protocol import EXIT_FAILED, Workspace
from worker.trainer.models import architectures
from worker.trainer.recurring import recurring


class Habit(nn.Module):
    """Does something of its own when it trains."""

    act: Callable[[torch.Tensor], Any] = staticmethod(lambda x: None)

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(10), nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).act(x)
        out: torch.Tensor = self.out(self.norm(x))
        return out


def trained(root: Path, monkeypatch: pytest.MonkeyPatch, *, rows: int = 9, act: Any = None) -> Attempt:
    """An attempt at a model with BatchNorm, with batches of four examples."""
    monkeypatch.setattr(Habit, "act", staticmethod(act or (lambda x: None)))
    monkeypatch.setitem(architectures.OURS, "habit", Habit)
    place = Workspace(root).create()
    save_file(Habit().state_dict(), place.base / "model.safetensors")
    examples = [{"x": [float(row)] * 10, "y": [1.0] * 10} for row in range(rows)]
    model = {"type": "torch", "architecture": "habit", "kwargs": {}}
    hyperparameters = {"n_epochs": 1, "batch_size": 4, "learning_rate": 0.01}
    return attempt(affine_order(root, rows=examples, model=model, hyperparameters=hyperparameters), root)


def test_batch_norm_with_a_last_batch_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine examples in batches of four: the parameter to change is named, and what torch said."""
    done = trained(tmp_path / "nine", monkeypatch, rows=9)
    assert (done.code, done.failure["code"]) == (EXIT_FAILED, "trainer_error")
    assert done.failure["param"] == "hyperparameters.batch_size"
    assert "leaves no single example over" in done.failure["message"]
    assert f"torch {torch.__version__.partition('+')[0]}" in done.failure["message"]
    assert trained(tmp_path / "eight", monkeypatch, rows=8).code == 0


def test_weights_in_fp16_with_precision_fp16() -> None:
    """What the gradient scaler says to them at the first step becomes the parameter to change."""
    weight = nn.Parameter(torch.ones(2).half())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight.float().sum()).backward()
    report = recurring(_raised(lambda: scaler.unscale_(torch.optim.SGD([weight], lr=0.1))))
    assert report is not None and report.param == "hyperparameters.precision"
    assert "choose the precision bf16" in report.message


def test_exception_of_another_package_in_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of any package: the innermost one is named."""

    def act(x: torch.Tensor) -> None:
        if torch.is_grad_enabled():  # not in the trial before the first step
            raise KeyError("missing")

    done = trained(tmp_path, monkeypatch, act=act)
    assert done.failure["code"] == "trainer_error"
    assert done.failure["message"].startswith("a training step failed: tests raised KeyError: 'missing'.")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        ConnectionResetError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("can't start new thread"),
    ],
)
def test_what_a_retry_can_cure_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """No report: the supervisor counts a crash and tries again, also where it is raised before the first step."""

    def act(x: torch.Tensor) -> None:
        raise error

    with pytest.raises(type(error)):
        trained(tmp_path, monkeypatch, act=act)


def _raised(act: Callable[[], Any]) -> Exception:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - any error of the two ways is compared
        return error
    raise AssertionError("it raised nothing")


def _from_the_disk() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise ValueError("the file is not whole") from error


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), "cannot be multiplied"),
        (lambda: nn.functional.embedding(torch.tensor([5]), torch.zeros(3, 2)), "an embedding table has fewer rows"),
        (lambda: "\ud83d".encode(), "surrogates not allowed"),
        (lambda: 1 / 0, "division by zero"),
    ],
)
def test_what_comes_again(act: Callable[[], Any], says: str) -> None:
    """Shapes, ids, texts and numbers are the same at every attempt."""
    report = recurring(_raised(act))
    assert report is not None and says in report.message


def test_cause_decides() -> None:
    """A library's own exception about a full disk is as passing as the disk's."""
    assert recurring(_raised(_from_the_disk)) is None


def test_assertion_in_a_kernel_comes_again() -> None:
    """On a GPU an id beyond the rows is an error of the device, whose numbers are the same at the next attempt."""
    assert recurring(RuntimeError("CUDA error: device-side assert triggered")) is not None


def test_our_own_fault_blames_no_library() -> None:
    """Where the trainer's code raised it."""
    report = recurring(_raised(lambda: Workspace(Path("/")).order.relative_to("/nowhere")))
    assert report is not None and report.message.startswith("the trainer failed: tests raised ValueError")
    report = recurring(_raised(lambda: recurring(None)))  # type: ignore[arg-type]
    assert report is not None and "the trainer raised AttributeError" in report.message
