"""Each part of a checkpoint is needed: with one left out, the resumed run differs. And what no checkpoint promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worker.trainer.attempts import Attempt, affine_order, attempt
from tests.worker.trainer.conftest import Uninterrupted
from tests.worker.trainer.training.test_checkpoints import (
    SLOW,
    assert_same,
    bert,
    copy_checkpoints,
    newest,
    rewrite_manifest,
    scheduled,
)
from worker.protocol import EXIT_FAILED, WorkOrder, Workspace
from worker.trainer.freeze.apply import Frozen

Build = Callable[[Path], WorkOrder]
Omit = Callable[[Path], None]


def half_precision(root: Path) -> WorkOrder:
    """fp16 whose first gradients overflow, so that the scaler has learned something by the first checkpoint."""
    rows = [{"x": [float((at * k) % 7) for k in range(10)], "y": [float(at % 5) * 50] * 10} for at in range(41)]
    hyperparameters = SLOW | {"learning_rate": 1e-4, "precision": "fp16", "optimizer": {"name": "sgd", "momentum": 0.9}}
    return affine_order(root, rows=rows, policy={"freeze": ["bias"]}, hyperparameters=hyperparameters)


def stopping_early(root: Path) -> WorkOrder:
    """Its loss grows from evaluation to evaluation: what was best, and how often it was missed, must be known."""
    hyperparameters = SLOW | {
        "n_epochs": 6,
        "learning_rate": 0.4,
        "eval_steps": 2,
        "validation_fraction": 0.2,
        "early_stopping_patience": 4,
    }
    return affine_order(root, policy={"freeze": ["weight"]}, hyperparameters=hyperparameters)


def altered_state(name: str, value: Any) -> Omit:
    """The checkpoint's JSON part with one entry as it is in a run that has just begun."""

    def omit(path: Path) -> None:
        state = json.loads((path / "state.json").read_text())
        assert name in state and state[name] != value, f"the checkpoint has {name!r}, and it says something"
        (path / "state.json").write_text(json.dumps(state | {name: value}))
        rewrite_manifest(path)

    return omit


def altered_tensors(file: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Omit:
    def omit(path: Path) -> None:
        tensors = {name: change(name, tensor) for name, tensor in load_file(path / file).items()}
        save_file(tensors, path / file)
        rewrite_manifest(path)

    return omit


def first_step(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tensor) if name.endswith(".step") else tensor


NOTHING = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
OMISSIONS: dict[str, tuple[Build, Omit]] = {
    "model": (bert, altered_tensors("model.safetensors", lambda _, tensor: tensor * 0.5)),
    "moments": (
        bert,
        altered_tensors("optimizer.safetensors", lambda name, each: each if "step" in name else each * 0),
    ),
    "optimizer's steps": (bert, altered_tensors("optimizer.safetensors", first_step)),
    "accumulation": (bert, altered_state("micro_batch_size", 1)),
    "scaler": (half_precision, altered_state("scaler", NOTHING)),
}


def resumed_without(
    folder: Path, uninterrupted: Uninterrupted, build: Build, omit: Omit | None, *, drop: int = 2
) -> tuple[Attempt, Attempt]:
    whole = uninterrupted(build)
    order = build(folder)
    copy_checkpoints(whole, folder, drop=drop)
    if omit is not None:
        omit(newest(folder))
    return whole, attempt(order, folder)


def test_a_skipped_first_step_leaves_no_momentum(tmp_path: Path) -> None:
    """torch's fused SGD would keep uninitialised memory for it, and end each time at other weights, or at NaN."""
    one, other = (attempt(half_precision(tmp_path / name), tmp_path / name) for name in ("one", "other"))
    scale = json.loads((newest(tmp_path / "one") / "state.json").read_text())["scaler"]["scale"]
    assert scale < 65536, "the first steps were skipped, or this shows nothing"
    assert_same(one, other)


@pytest.mark.parametrize("part", OMISSIONS)
def test_a_part_that_is_left_out_shows(tmp_path: Path, uninterrupted: Uninterrupted, part: str) -> None:
    """With the part: the same bits. Without it: others. So the comparison sees what it is to see."""
    build, omit = OMISSIONS[part]
    assert_same(*resumed_without(tmp_path / "with", uninterrupted, build, None))
    whole, resumed = resumed_without(tmp_path / "without", uninterrupted, build, omit)
    assert resumed.code == 0
    assert any(not torch.equal(tensor, resumed.changed[name]) for name, tensor in whole.changed.items())


def test_patience_is_part_of_a_checkpoint(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """A run that stops early stops at the same step after a resume; one that has forgotten its misses does not."""
    whole, resumed = resumed_without(tmp_path / "with", uninterrupted, stopping_early, None, drop=1)
    steps = whole.of("done")[0]["steps"]
    assert steps < 24 and resumed.of("done")[0]["steps"] == steps
    assert_same(whole, resumed)
    fresh = json.loads((newest(whole.place.root) / "state.json").read_text())["patience"]
    forgotten = {**fresh, "misses": 0}
    assert forgotten != fresh
    _, other = resumed_without(
        tmp_path / "without", uninterrupted, stopping_early, altered_state("patience", forgotten), drop=1
    )
    assert other.of("done")[0]["steps"] > steps


def test_the_witness_is_part_of_a_checkpoint(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """Intervals of a schedule that closed before the kill are in the evidence; without its state they are not."""
    whole, resumed = resumed_without(tmp_path / "with", uninterrupted, scheduled, None)
    assert_same(whole, resumed)
    state = json.loads((newest(tmp_path / "with") / "state.json").read_text())["witness"]
    assert state, "a witness has something to remember"
    intervals = [each["intervals"] for each in whole.observations["tensors"] if each["intervals"]]
    assert intervals and max(len(each) for each in intervals) == 2


def test_the_schedule_is_taken_up_again(
    tmp_path: Path, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: were the freezes of the checkpoint's step not applied, the optimizer would be another one."""
    whole, _ = resumed_without(tmp_path / "with", uninterrupted, scheduled, None, drop=4)
    real = Frozen.at_step
    skipped: list[Any] = []
    order = scheduled(tmp_path / "without")
    copy_checkpoints(whole, tmp_path / "without", drop=4)
    at = int(newest(tmp_path / "without").name.removeprefix("step-"))

    def forgetful(self: Frozen, step: int, optimizer: Any) -> Any:
        if step == at and not skipped:
            skipped.append(step)
            return None
        return real(self, step, optimizer)

    monkeypatch.setattr(Frozen, "at_step", forgetful)
    done = attempt(order, tmp_path / "without")
    assert done.code == EXIT_FAILED and "its optimizer has a tensor number" in done.failure["message"]
    assert skipped == [at]


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    """By default, so that there is one to fall back to when the newest is torn."""
    order = bert(tmp_path)
    fields = order.to_json()
    fields["hyperparameters"] = {k: v for k, v in order.hyperparameters.to_json().items() if k != "keep_checkpoints"}
    done = attempt(WorkOrder.from_json(fields), tmp_path)
    assert done.code == 0
    assert len(list(Workspace(tmp_path).checkpoints.glob("step-*"))) >= 2
