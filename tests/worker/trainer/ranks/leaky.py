"""A model of the article's kind that goes wrong on one rank alone, in whichever way a test asks for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import DataError
from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from worker.protocol import WorkOrder
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine


class Leaky(Affine):
    """In its `at`-th training pass, rank `rank` does what `habit` says; a buffer of its own may be frozen, too."""

    habit = ""
    rank = 1
    at = 3

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.passes = 0
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if self.training and self.passes >= self.at and int(os.environ.get("RANK", "0")) == self.rank:
            getattr(self, self.habit)(x)
        return super().forward(x) * self.scale

    def move_parameter(self, x: torch.Tensor) -> None:
        self._parameters["weight"].data.add_(0.5)

    def move_buffer(self, x: torch.Tensor) -> None:
        self._buffers["scale"].data.add_(0.5)

    def move_trained(self, x: torch.Tensor) -> None:
        self._parameters["bias"].data.add_(0.5)

    def die(self, x: torch.Tensor) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self, x: torch.Tensor) -> None:
        raise DataError("one rank alone does not like this", code="one_alone")

    def raise_error(self, x: torch.Tensor) -> None:
        raise AssertionError("a fault of one rank")

    def starve(self, x: torch.Tensor) -> None:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore figures.")


def trained(root: Path, monkeypatch: pytest.MonkeyPatch, habit: str, **changes: Any) -> Attempt:
    """Two ranks, `weight` and `scale` frozen, five steps an epoch; ranks are forks, so they have what is patched."""
    monkeypatch.setattr(Leaky, "habit", habit)
    monkeypatch.setitem(architectures.OURS, "leaky", Leaky)
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "learning_rate": 0.05}
    order: dict[str, Any] = {
        "model": AFFINE | {"architecture": "leaky"},
        "hyperparameters": hyperparameters | changes.pop("hyperparameters", {}),
        "policy": {"freeze": ["weight", "scale"]},
        "devices": 2,
    }
    return attempt(_with_scale(affine_order(root, **order | changes), root), root)


def _with_scale(order: WorkOrder, root: Path) -> WorkOrder:
    path = root / "base" / "model.safetensors"
    save_file(load_file(path) | {"scale": torch.ones(1)}, path)
    return order
