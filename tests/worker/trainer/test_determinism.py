"""What the bits depend on beside data and code: random generators, threads, and the environment of a checkpoint."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.trainer.attempts import attempt
from tests.worker.trainer.conftest import Uninterrupted
from tests.worker.trainer.training.test_checkpoints import (
    assert_same,
    bert,
    copy_checkpoints,
    newest,
    rewrite_manifest,
)
from worker.trainer import checkpoint, determinism


@pytest.mark.parametrize("generator", ["python", "numpy", "torch"])
def test_every_generator_is_restored(tmp_path: Path, generator: str) -> None:
    """Models and data may draw from any of the three; each goes on where it was, and would not if it were left out."""
    draw: dict[str, Callable[[], float]] = {
        "python": random.random,
        "numpy": lambda: float(np.random.rand()),
        "torch": lambda: float(torch.rand(())),
    }
    model = torch.nn.Linear(2, 2)
    determinism.seed_everything(5)
    content = checkpoint.take(tensors=model.state_dict(), optimizer=torch.optim.SGD(model.parameters()), state={})
    path = checkpoint.write(tmp_path, content, step=1, run="r", keep=2)
    expected = {name: each() for name, each in draw.items()}
    found = checkpoint.read(path, run="r")
    found.restore_random_states()
    assert {name: each() for name, each in draw.items()} == expected
    determinism.seed_everything(6)
    left_out = {**found.state["random"]}
    tensors = dict(found.random)
    if generator == "torch":
        tensors.pop("cpu")
    else:
        left_out[generator] = determinism.random_states()[0][generator]
    determinism.restore_random_states(left_out, tensors)
    drawn = {name: each() for name, each in draw.items()}
    assert {name for name in draw if drawn[name] != expected[name]} == {generator}


def test_generators_of_absent_devices_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank saves one for each GPU that it sees; the job may be taken up where there are fewer."""
    given: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.append(device))
    plain, tensors = determinism.random_states()
    gpus = {f"cuda:{number}": torch.zeros(16, dtype=torch.uint8) for number in range(2)}
    determinism.restore_random_states(plain, tensors | gpus)
    assert given == ["cuda:0"]


def test_threads_are_those_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with another number of cores takes the checkpoint's thread count, and so may say "exactly"."""
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        whole = attempt(bert(tmp_path / "whole"), tmp_path / "whole")
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        order = bert(tmp_path / "resumed")
        copy_checkpoints(whole, tmp_path / "resumed", drop=2)
        resumed = attempt(order, tmp_path / "resumed")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert any(each["message"].endswith("exactly as if it had not stopped") for each in resumed.of("event"))
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("torch", "2.0.0"),
        ("transformers", "4.0.0"),
        ("device", "NVIDIA H100"),
        ("dtype", "torch.float64"),
        ("cpu", "none"),
        ("processor", "another"),
    ],
)
def test_another_environment_is_never_called_exact(
    tmp_path: Path, uninterrupted: Uninterrupted, name: str, value: str
) -> None:
    """The run goes on, and the event names what differs instead of promising the same bits."""
    whole = uninterrupted(bert)
    order = bert(tmp_path / "resumed")
    copy_checkpoints(whole, tmp_path / "resumed", drop=1)
    path = newest(tmp_path / "resumed")
    state = json.loads((path / "state.json").read_text())
    assert name in state["environment"]
    state["environment"][name] = value
    (path / "state.json").write_text(json.dumps(state))
    rewrite_manifest(path)
    resumed = attempt(order, tmp_path / "resumed")
    messages = [each["message"] for each in resumed.of("event")]
    assert any(message.startswith("not exact: ") and name in message for message in messages)
    assert not any("exactly" in message for message in messages)
