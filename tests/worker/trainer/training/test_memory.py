"""Out of memory: the micro-batch is halved, the batch is not; one example that does not fit fails the job."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine
from worker.trainer.training import memory


class Hungry(Affine):
    """Has room for `room` examples in training; its dropout shows whether a failed pass has used up randomness."""

    room = 3
    evaluated = 1000  # its room in evaluation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.dropout(x, 0.5, self.training)
        if len(x) > (self.room if self.training else self.evaluated):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore figures.")
        return super().forward(x)


def trained(root: Path, monkeypatch: pytest.MonkeyPatch, room: int, **changes: Any) -> Attempt:
    monkeypatch.setattr(Hungry, "room", room)
    monkeypatch.setitem(architectures.OURS, "hungry", Hungry)
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "learning_rate": 0.05} | changes
    return attempt(affine_order(root, model=AFFINE | {"architecture": "hungry"}, hyperparameters=hyperparameters), root)


def test_micro_batch_is_halved_and_the_batch_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with the figures, once per halving; the bits are those of a job that asked for that size."""
    done = trained(tmp_path / "halved", monkeypatch, 3)
    asked = trained(tmp_path / "asked", monkeypatch, 3, micro_batch_size=2)
    events = [each for each in done.of("event") if "out of memory" in each["message"]]
    assert [each["data"]["micro_batch_size"] for each in events] == [4, 2]
    assert "20.00 MiB" in events[0]["message"]
    assert done.of("done")[0]["steps"] == 10
    assert not [each for each in asked.of("event") if "out of memory" in each["message"]]
    for name, tensor in asked.changed.items():
        assert torch.equal(tensor, done.changed[name]), name


def test_an_example_that_does_not_fit_fails_with_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to halve."""
    done = trained(tmp_path, monkeypatch, 0)
    assert (done.failure["code"], done.failure["param"]) == ("out_of_memory", "hyperparameters.batch_size")
    assert "20.00 MiB" in done.failure["message"]


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


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def test_evaluation_is_halved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fits in training need not fit in evaluation; the metrics are those of any other cut."""
    monkeypatch.setattr(Hungry, "evaluated", 2)
    done = trained(tmp_path / "halved", monkeypatch, 8, validation_fraction=0.2)
    monkeypatch.setattr(Hungry, "evaluated", 1000)
    free = trained(tmp_path / "free", monkeypatch, 8, validation_fraction=0.2)
    assert (done.code, free.code) == (0, 0), done.failure
    events = [each for each in done.of("event") if "out of memory" in each["message"]]
    assert [each["data"]["micro_batch_size"] for each in events] == [4, 2]
    assert "evaluation after step" in events[0]["message"]
    assert done.of("evaluation")[0]["metrics"] == pytest.approx(free.of("evaluation")[0]["metrics"], rel=1e-5)


class Greedy(Affine):
    """Asks the CPU's allocator for a petabyte where more than `room` examples come at a time."""

    room = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.room:
            torch.empty(1 << 50, dtype=torch.uint8)
        return super().forward(x)


@pytest.mark.parametrize("room", [3, 0])
def test_host_memory_counts_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """On a CPU torch says it in another error: halved all the same, and at one example a failure with the figures."""
    monkeypatch.setattr(Greedy, "room", room)
    monkeypatch.setitem(architectures.OURS, "greedy", Greedy)
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "learning_rate": 0.05}
    order = affine_order(tmp_path, model=AFFINE | {"architecture": "greedy"}, hyperparameters=hyperparameters)
    done = attempt(order, tmp_path)
    if room:
        assert done.code == 0, done.reports
        assert [
            each["data"]["micro_batch_size"] for each in done.of("event") if "out of memory" in each["message"]
        ] == [4, 2]
    else:
        assert (done.code, done.failure["code"]) == (1, "out_of_memory")
        assert "1125899906842624 bytes" in done.failure["message"]
