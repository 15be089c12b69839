"""Ranks that are stopped or killed and go on: the same bits with as many of them, and no such claim otherwise."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.worker.trainer.attempts import attempt
from tests.worker.trainer.training import test_checkpoints as alone
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints, start, wait_for_step
from worker.protocol import EXIT_STOPPED, WorkOrder, Workspace, read_reports


def scheduled(root: Path, *, devices: int = 2, strategy: str = "ddp") -> WorkOrder:
    """Dropout on (each rank draws its own), AdamW, clipping, accumulation, validation; a tensor frozen for a while."""
    order = alone.scheduled(root) if strategy == "ddp" else alone.bert(root)
    return WorkOrder.from_json(order.to_json() | {"devices": devices, "strategy": strategy})


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_resumed_ranks_have_the_same_bits(tmp_path: Path, strategy: str) -> None:
    """From a checkpoint in the middle; each rank has its own random state back, and its part of the moments."""
    whole = attempt(scheduled(tmp_path / "whole", strategy=strategy), tmp_path / "whole")
    assert whole.code == 0, whole.of("failed")
    folder = tmp_path / "resumed"
    order = scheduled(folder, strategy=strategy)
    copy_checkpoints(whole, folder, drop=3)
    resumed = attempt(order, folder)
    assert any(each["message"].endswith("exactly as if it had not stopped") for each in resumed.of("event"))
    assert_same(whole, resumed)


def test_other_ranks_random_state_is_needed(tmp_path: Path) -> None:
    """The negative control: without rank 1's generators in the checkpoint the bits do differ."""
    whole = attempt(scheduled(tmp_path / "whole"), tmp_path / "whole")
    folder = tmp_path / "resumed"
    order = scheduled(folder)
    copy_checkpoints(whole, folder, drop=3)
    newest = max(Workspace(folder).checkpoints.iterdir())
    state = json.loads((newest / "state.json").read_text())
    assert list(state.pop("ranks")) == ["1"]
    (newest / "state.json").write_text(json.dumps(state))
    alone.rewrite_manifest(newest)
    resumed = attempt(order, folder)
    with pytest.raises(AssertionError):
        assert_same(whole, resumed)


@pytest.mark.parametrize("devices", [1, 2], ids=["two go on as one", "one goes on as two"])
def test_other_number_of_ranks_is_not_called_exact(tmp_path: Path, devices: int) -> None:
    """The checkpoint serves, the frozen weights are the base's, and the event says that the last bits may differ."""
    whole = attempt(scheduled(tmp_path / "whole", devices=3 - devices), tmp_path / "whole")
    folder = tmp_path / "resumed"
    order = scheduled(folder, devices=devices)
    copy_checkpoints(whole, folder, drop=3)
    resumed = attempt(order, folder)
    assert resumed.code == 0, resumed.of("failed")
    (warning,) = [each for each in resumed.of("event") if "may differ" in each["message"]]
    assert "ranks" in warning["message"]
    assert resumed.observations["verdict"] == "verified"


def test_sigterm_stops_all_at_the_same_step(tmp_path: Path) -> None:
    """Only the first process gets the signal: all ranks stop after the same step with a checkpoint, and go on."""
    whole = attempt(scheduled(tmp_path / "whole"), tmp_path / "whole")
    folder = tmp_path / "stopped"
    order = scheduled(folder)
    quiet = order.hyperparameters.to_json() | {"checkpoint_steps": None}
    order = WorkOrder.from_json(order.to_json() | {"hyperparameters": quiet})
    child = start(order, folder, slow=True)
    wait_for_step(folder, 2)
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(PATIENCE)
    assert child.exitcode == EXIT_STOPPED
    saved = [each["step"] for each in read_reports(Workspace(folder).reports)[0] if each["type"] == "checkpoint"]
    assert len(saved) == 1
    assert_same(whole, attempt(order, folder))
