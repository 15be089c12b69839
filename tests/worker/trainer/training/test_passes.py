"""Forward and backward passes: out of memory halves the micro-batch and not the batch; nondeterministic operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine


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


class Scattered(Affine):
    """An operation that torch has no deterministic kernel for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        return super().forward(x)


def test_operation_that_is_not_deterministic_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains all the same, with one event that names the operation; the report with the result says so, too."""
    monkeypatch.setitem(architectures.OURS, "scattered", Scattered)
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        done = attempt(affine_order(tmp_path, model=AFFINE | {"architecture": "scattered"}), tmp_path)
    assert done.code == 0
    assert [each["level"] for each in done.of("event") if "put_" in each["message"]] == ["warn"]
    report = json.loads((done.place.files / "determinism.json").read_text())
    assert not report["exact"]
    assert "put_" in report["not_deterministic"][0]
