"""bf16 weights move by updates that bf16 cannot hold, and resume with the same bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import WorkOrder
from worker.trainer.models import architectures
from worker.trainer.models.architectures import Affine
from worker.trainer.training.master_weights import MasterWeights

SLOW = {"n_epochs": 4, "batch_size": 8, "learning_rate": 1e-4, "optimizer": "adamw", "checkpoint_steps": 3}


def job(root: Path, *, dtype: torch.dtype = torch.bfloat16, **wanted: Any) -> WorkOrder:
    """The affine model with weights in half precision, `weight` trained and `bias` frozen."""
    policy = {"freeze": ["bias"]}
    hyperparameters = SLOW | {"keep_checkpoints": 100} | wanted
    order = affine_order(root, model=AFFINE, policy=policy, hyperparameters=hyperparameters)
    base = root / "base" / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(base).items()}, base)
    return order


@pytest.fixture(autouse=True)
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affine architecture in bf16, which reads data in its own dtype."""

    class Half(Affine):
        def __init__(self, in_features: int, out_features: int) -> None:
            super().__init__(in_features, out_features)
            self.to(torch.bfloat16)

    monkeypatch.setitem(architectures.OURS, "affine", Half)


def moved(done: Attempt) -> float:
    """The share of the trained elements whose bits differ from the base."""
    base, after = done.base["weight"], done.composed()["weight"]
    assert after.dtype is torch.bfloat16
    return float((base.view(torch.int16) != after.view(torch.int16)).float().mean())


def test_small_updates_are_not_lost(tmp_path: Path) -> None:
    """A hundred updates of 1e-4 move nearly every weight; without master copies they round to nothing for most."""
    wanted: dict[str, Any] = {"n_epochs": 20, "checkpoint_steps": 1000}
    done = attempt(job(tmp_path / "with", **wanted), tmp_path / "with")
    assert done.code == 0, done.failure
    without = attempt(job(tmp_path / "without", master_weights=False, **wanted), tmp_path / "without")
    assert moved(done) > 0.8 > 0.3 > moved(without)
    assert any("1 half-precision tensors train through fp32 master copies" in e["message"] for e in done.of("event"))
    assert not any("master" in event["message"] for event in without.of("event"))


@pytest.mark.parametrize("wanted", [{}, {"master_weights": False}, {"optimizer": {"name": "sgd", "momentum": 0.9}}])
def test_resumed_run_has_the_same_bits(tmp_path: Path, wanted: dict[str, Any]) -> None:
    """The copies are in the checkpoint, and the optimizer's state keeps its fp32 values."""
    whole = attempt(job(tmp_path / "whole", **wanted), tmp_path / "whole")
    resumed = job(tmp_path / "resumed", **wanted)
    copy_checkpoints(whole, tmp_path / "resumed", drop=3)
    assert_same(whole, attempt(resumed, tmp_path / "resumed"))


def test_a_checkpoint_without_copies_goes_on_without(tmp_path: Path) -> None:
    """As checkpoints of earlier versions are: the run ends with the bits that it would have had then."""
    old = attempt(job(tmp_path / "old", master_weights=False), tmp_path / "old")
    order = job(tmp_path / "new")
    new = attempt(order, tmp_path / "new")
    shutil.rmtree(new.place.root / "out")
    new.place.reports.unlink()
    copied = copy_checkpoints_as(old, new)
    assert copied
    resumed = attempt(order, tmp_path / "new")
    assert_same(old, resumed)
    assert not any("master" in event["message"] for event in resumed.of("event"))


def copy_checkpoints_as(one: Attempt, other: Attempt) -> list[Path]:
    """One attempt's earlier checkpoints in place of another's, under the identity of the other run."""
    identity = json.loads(next(other.place.checkpoints.glob("*/manifest.json")).read_text())["run"]
    shutil.rmtree(other.place.checkpoints)
    copy_checkpoints(one, other.place.root, drop=3)
    manifests = list(other.place.checkpoints.glob("*/manifest.json"))
    for manifest in manifests:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"run": identity}))
    return manifests


def test_fp16_weights_train_with_fp16_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler refuses to unscale fp16 gradients; those of the copies are in fp32."""

    class Half(Affine):
        def __init__(self, in_features: int, out_features: int) -> None:
            super().__init__(in_features, out_features)
            self.to(torch.float16)

    monkeypatch.setitem(architectures.OURS, "affine", Half)
    done = attempt(job(tmp_path, dtype=torch.float16, precision="fp16", max_grad_norm=1.0), tmp_path)
    assert done.code == 0, done.failure


def test_a_write_from_elsewhere_is_kept() -> None:
    """An embedding with max_norm rescales its rows in the forward pass."""
    embedding = nn.Embedding(4, 8, max_norm=0.5, dtype=torch.bfloat16)
    masters = MasterWeights(list(embedding.named_parameters()))
    embedding(torch.arange(4)).float().sum().backward()
    optimizer = torch.optim.SGD(embedding.parameters(), lr=1e-6)
    with masters.updating():
        optimizer.step()
        optimizer.zero_grad()
    assert float(embedding.weight.detach().float().norm(dim=1).max()) < 0.51
    assert torch.equal(masters.copies["weight"].bfloat16(), embedding.weight)


def test_only_weights_in_half_precision_are_copied() -> None:
    """Outside of an update a weight is itself again, in its own memory."""
    model = nn.ModuleDict({"fp32": nn.Linear(2, 2), "bf16": nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)})
    weight = model.get_parameter("bf16.weight")
    address = weight.data_ptr()
    masters = MasterWeights(list(model.named_parameters()))
    assert list(masters.copies) == ["bf16.weight"]
    weight.grad = torch.ones_like(weight)
    with masters.updating():
        assert (weight.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
    assert (weight.dtype, weight.data_ptr(), weight.grad) == (torch.bfloat16, address, None)  # type: ignore[comparison-overlap]


def test_a_trained_tensor_that_stays_unchanged_is_named(tmp_path: Path) -> None:
    """Updates of 1e-8 are lost to the rounding of bf16 even with master copies."""
    done = attempt(job(tmp_path, learning_rate=1e-8), tmp_path)
    (event,) = [event for event in done.of("event") if "unchanged" in event["message"]]
    assert event["message"].startswith("1 of 1 trained tensors are unchanged: 'weight'")
    assert event["data"]["tensors"] == ["weight"]
