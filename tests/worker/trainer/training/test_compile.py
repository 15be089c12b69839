"""`compile: true`: mechanisms and resumes to the same bits, and a clear failure where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.worker.trainer.attempts import AFFINE, Attempt, affine_order, attempt
from tests.worker.trainer.test_main import Leaky
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from tests.worker.trainer.training.test_prefix_cache import mlp
from worker.protocol import WorkOrder
from worker.trainer.models import architectures
from worker.trainer.training import compiling

POLICY = {"freeze": ["0.**"]}
#: Two steps an epoch, of one shape.
SHORT = {"compile": True, "batch_size": 20, "n_epochs": 2, "validation_fraction": None}

pytestmark = [
    pytest.mark.usefixtures("own_folders"),
    #: torch's own import of its scripted modules.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]


def run(root: Path, *, mechanism: str = "requires_grad", **wanted: Any) -> Attempt:
    order = mlp(root, **(SHORT | wanted))
    return attempt(WorkOrder.from_json(order.to_json() | {"policy": POLICY | {"mechanism": mechanism}}), root)


@pytest.mark.slow
def test_mechanisms_train_the_same_bits(tmp_path: Path) -> None:
    """Graphs are made for each of them, and what trains does not tell them apart; frozen tensors are the base's."""
    done = []
    for mechanism in ("requires_grad", "detach", "param_group"):
        counters.clear()
        each = run(tmp_path / mechanism, mechanism=mechanism)
        assert each.code == 0, each.reports
        assert counters["stats"]["unique_graphs"] > 0
        assert sorted(each.changed) == ["3.bias", "3.weight", "6.bias", "6.weight", "9.bias", "9.weight"]
        assert each.observations["violations"] == []
        (cache,) = each.of("prefix_cache")
        assert (cache["in_use"], cache["reason"]) == (False, "the model is compiled")
        done.append(each)
    for other in done[1:]:
        for name, tensor in done[0].changed.items():
            assert torch.equal(tensor, other.changed[name]), name


@pytest.mark.slow
def test_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    """Two shapes of batch; taken up from the middle, where graphs are made anew."""
    wanted: dict[str, Any] = {"batch_size": 16, "checkpoint_steps": 1, "keep_checkpoints": 10}
    whole = run(tmp_path / "whole", **wanted)
    order = mlp(tmp_path / "resumed", **(SHORT | wanted))
    copy_checkpoints(whole, tmp_path / "resumed", drop=2)
    torch._dynamo.reset()
    resumed = attempt(
        WorkOrder.from_json(order.to_json() | {"policy": POLICY | {"mechanism": "requires_grad"}}), tmp_path / "resumed"
    )
    assert any(each["message"].startswith("goes on after step") for each in resumed.of("event"))
    assert_same(whole, resumed)


def compiled(root: Path, **changes: Any) -> Attempt:
    """The smallest model, for two steps."""
    wanted = {"compile": True, "n_epochs": 1, "batch_size": 20, "learning_rate": 0.05}
    return attempt(affine_order(root, policy={"freeze": ["weight"]}, hyperparameters=wanted, **changes), root)


@pytest.mark.slow
def test_write_in_a_graph_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that writes its frozen weight, the write compiled with the rest: the step is told, there is no result."""
    monkeypatch.setitem(architectures.OURS, "leaky", Leaky)
    counters.clear()
    done = compiled(tmp_path, model=AFFINE | {"architecture": "leaky"})
    assert counters["stats"]["unique_graphs"] > 0
    assert (done.code, done.failure["code"]) == (1, "frozen_tensor_changed"), done.failure
    assert (done.of("violation")[0]["name"], done.of("violation")[0]["first_bad_step"]) == ("weight", 1)
    assert not done.place.result.exists()


def test_no_compiler(tmp_path: Path) -> None:
    """A worker without one says what to install, before the first step."""
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        done = compiled(tmp_path)
    assert (done.code, done.failure["param"]) == (1, compiling.PARAM)
    assert "install g++" in done.failure["message"]
    assert not done.of("step")


def test_compiler_that_fails(tmp_path: Path) -> None:
    """One that is there and compiles nothing: the job fails by the hyperparameter's name, before the first update."""
    from torch._inductor import config

    broken = tmp_path / "broken-g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\nexit 1\n')
    broken.chmod(0o755)
    torch._dynamo.reset()
    with config.patch({"cpp.cxx": (None, str(broken))}):
        done = compiled(tmp_path / "job")
    assert (done.code, done.failure["param"]) == (1, compiling.PARAM)
    assert "leave compile out" in done.failure["message"]
    assert not done.of("step")


def test_several_devices(tmp_path: Path) -> None:
    """Refused with what would work."""
    done = compiled(tmp_path, devices=2)
    assert (done.failure["param"], "on one device only" in done.failure["message"]) == (compiling.PARAM, True)
