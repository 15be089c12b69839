"""Whole attempts on the article's model: `x @ weight + bias`, ten by ten."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from app.evidence.format.digest import sha256_file
from app.specs.models import ModelSpec, TransformersSpec
from tests.worker.trainer.attempts import AFFINE, affine_order, attempt, attempt_json, work_order
from worker.protocol import Workspace
from worker.trainer.models import architectures, card
from worker.trainer.models.architectures import Affine
from worker.trainer.witness.report import WitnessReport

MECHANISMS = ["requires_grad", "detach", "param_group"]


def freeze_weight(mechanism: str) -> dict[str, object]:
    return {"freeze": ["weight"], "mechanism": mechanism}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_frozen_weight_keeps_its_bits_and_bias_moves(tmp_path: Path, mechanism: str) -> None:
    """Each of the three mechanisms: the result takes weight from the base, bias alone is changed and stored."""
    done = attempt(affine_order(tmp_path, policy=freeze_weight(mechanism)), tmp_path)
    assert done.code == 0
    assert set(done.changed) == {"bias"}
    assert done.result["weight"]["from"] == "base"
    assert not torch.equal(done.changed["bias"], done.base["bias"])
    weight = done.observed["weight"]
    assert weight["loaded"] == weight["trained"]
    assert done.observations["violations"] == []
    assert done.observations["checks"]["last_step"] == 10


def test_all_mechanisms_train_bias_to_the_same_bits(tmp_path: Path) -> None:
    """How a tensor is frozen has no say in what the others learn."""
    found = [
        attempt(affine_order(tmp_path / each, policy=freeze_weight(each)), tmp_path / each).changed["bias"]
        for each in MECHANISMS
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_article_s_third_example_moves_weight_at_step_1(tmp_path: Path, name: str) -> None:
    """The control: a group option `requires_grad: False`, as literally written, freezes nothing, and that is found."""
    optimizer = {"name": name, "groups": [{"select": {"name": "weight"}, "options": {"requires_grad": False}}]}
    order = affine_order(
        tmp_path,
        policy={"freeze": ["weight"], "enforce": False},
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate": 0.05, "optimizer": optimizer},
    )
    done = attempt(order, tmp_path)
    assert done.code == 0
    assert set(done.changed) == {"weight", "bias"}
    violation = done.observations["violations"][0]
    assert (violation["name"], violation["last_good_step"], violation["first_bad_step"]) == ("weight", 0, 1)
    wrote = "aten::add_" if name == "sgd" else f"aten::_fused_{name}_"
    assert violation["operation"].startswith(f"{wrote} at worker/trainer/training/quick_step.py:")
    assert violation["operation"].endswith(" in step")
    assert done.of("violation")[0]["first_bad_step"] == 1
    assert done.of("violation")[-1]["operation"] == violation["operation"]


def test_an_audit_that_asks_to_abort_stops_at_the_first_step(tmp_path: Path) -> None:
    """An audit goes on by default; `on_violation: abort` ends it where the weight moves."""
    optimizer = {"name": "sgd", "groups": [{"select": {"name": "weight"}, "options": {"requires_grad": False}}]}
    order = affine_order(
        tmp_path,
        policy={"freeze": ["weight"], "enforce": False, "on_violation": "abort"},
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate": 0.05, "optimizer": optimizer},
    )
    done = attempt(order, tmp_path)
    assert done.code == 1
    assert done.failure["code"] == "frozen_tensor_changed"


def test_ignored_group_option_is_refused_where_freezing_is_enforced(tmp_path: Path) -> None:
    """The same request with `enforce` true does not start; `param` names the option."""
    optimizer = {"name": "sgd", "groups": [{"select": {"name": "weight"}, "options": {"requires_grad": False}}]}
    order = affine_order(tmp_path, hyperparameters={"learning_rate": 0.05, "optimizer": optimizer})
    done = attempt(order, tmp_path)
    assert done.code == 1
    assert done.failure["param"] == "hyperparameters.optimizer.groups[0].options.requires_grad"
    assert not done.place.result.exists()


def test_mlp_trains(tmp_path: Path) -> None:
    """Its module calls its input something else than our data does; a frozen first layer stays."""
    model = {"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 10, "out_features": 10, "hidden": [4]}}
    attempt(work_order(job_id="j", stage="initialise", model=model, seed=1), tmp_path)
    done = attempt(affine_order(tmp_path, model=model, policy={"freeze": ["0.**"]}), tmp_path)
    assert done.code == 0, done.reports[-1]
    assert {name for name, each in done.result.items() if each["from"] == "changed"} == {"3.weight", "3.bias"}


def test_initialise_writes_a_base_file_from_the_seed(tmp_path: Path) -> None:
    """Two workspaces with one seed hold the same bytes; another seed gives others."""
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        order = work_order(job_id="j", stage="initialise", model=AFFINE, seed=seed)
        done = attempt(order, tmp_path / name)
        assert done.code == 0
        found.append((done.place.base / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_describe_lists_tensors_without_weights(tmp_path: Path) -> None:
    """Names, shapes and types of modules, from the spec alone."""
    done = attempt(work_order(job_id="j", stage="describe", model=AFFINE), tmp_path)
    manifest = json.loads(done.place.manifest.read_text())
    found = [(each["name"], each["shape"], each["module_types"]) for each in manifest["tensors"]]
    assert found == [("weight", [10, 10], ["Affine"]), ("bias", [10], ["Affine"])]


def test_reports_tell_the_story_in_order(tmp_path: Path) -> None:
    """Stages, plan before steps, the first and last step, done at the end with what was asked."""
    done = attempt(affine_order(tmp_path, policy=freeze_weight("detach")), tmp_path)
    kinds = [report["type"] for report in done.reports]
    assert [each["stage"] for each in done.of("stage")] == ["loading", "training", "exporting"]
    assert kinds.index("plan") < kinds.index("step")
    assert kinds[-1] == "done"
    assert [done.of("step")[0]["step"], done.of("step")[-1]["step"]] == [1, 10]
    plan = done.of("plan")[0]
    assert plan["counts"]["frozen"]["tensors"] == 1
    assert (plan["total_steps"], plan["epochs"]) == (10, 2)
    assert done.of("done")[0]["steps"] == 10


def test_card_is_read_by_machines_and_people(tmp_path: Path) -> None:
    """Front matter that YAML reads, also where a path looks like YAML of another meaning; data, evidence."""
    done = attempt(affine_order(tmp_path, policy={"freeze": ["weight"]}), tmp_path)
    text = (done.place.files / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    front = yaml.safe_load(head)
    assert front["tags"] == ["permafrost", "tabular-regression"]
    assert "library_name" not in front  # of a plain torch model there is none
    assert "ftjob-test" in body
    assert sha256_file(done.place.data / "train.jsonl") in body
    assert "- frozen: 1 tensors, 100 elements, 400 bytes" in body
    count = done.observations["checks"]["count"]
    assert f"{count} checks of 1 frozen tensors during training, from step 0 to step 10; no tensor had changed" in body
    odd = card_of(spec=TransformersSpec(path="owner/name: [x] #1"), task="text-classification")
    front = yaml.safe_load(odd.removeprefix("---\n").partition("\n---\n")[0])
    assert (front["base_model"], front["library_name"]) == ("owner/name: [x] #1", "transformers")
    assert front["pipeline_tag"] == "text-classification"


def card_of(*, spec: ModelSpec, task: str) -> str:
    report = WitnessReport(
        "verified", (), steps=1, checks=2, first_step=0, last_step=1, watched=1, scheme="x", seconds=0.0
    )
    counts = {name: {"tensors": 1, "elements": 1, "bytes": 4} for name in ("frozen", "trainable")}
    rest: dict[str, Any] = {
        "job_id": "ftjob-x",
        "data_sha256": "0",
        "policy": {},
        "settings": {},
        "metrics": {},
        "labels": None,
    }
    return card.text(spec=spec, task=task, counts=counts, report=report, steps=1, **rest)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"wieght": (10, 10), "bias": (10,)}, "is 'wieght' meant to be 'weight'?"),
        ({"weight": (10, 10), "bias": (10,), "more": (1,)}, "not in the model more"),
        ({"weight": (10, 10)}, "missing bias"),
        ({"weight": (10, 9), "bias": (10,)}, "'weight' is (10, 9) in the file and (10, 10) in the model"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, tensors: dict[str, tuple[int, ...]], says: str) -> None:
    """Missing, extra, of another shape: told by name, with the nearest one."""
    place = Workspace(tmp_path).create()
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, place.base / "model.safetensors")
    done = attempt(affine_order(tmp_path), tmp_path)
    assert (done.code, done.failure["param"]) == (1, "model.weights")
    assert says in done.failure["message"]


def test_weights_keep_their_stored_dtype(tmp_path: Path) -> None:
    """Doubles in the file are doubles in the model and in the result."""
    place = Workspace(tmp_path).create()
    tensors = {"weight": torch.zeros(10, 10, dtype=torch.float64), "bias": torch.zeros(10, dtype=torch.float64)}
    save_file(tensors, place.base / "model.safetensors")
    done = attempt(affine_order(tmp_path, policy={"freeze": ["weight"]}), tmp_path)
    assert done.code == 0, done.reports[-1]
    assert {each["dtype"] for each in done.result.values()} == {"F64"}


@pytest.mark.parametrize(
    ("changes", "code", "param", "says"),
    [
        ({"policy": {"freeze": ["wieght"]}}, "invalid_freeze_policy", "freeze_policy", "weight"),
        ({"policy": {"default": "freeze", "rules": []}}, "invalid_freeze_policy", "freeze_policy", ""),
        ({"hyperparameters": {"n_epoch": 1}}, "invalid_request", "hyperparameters.n_epoch", "n_epochs"),
        ({"hyperparameters": {"optimizer": "adamq"}}, "invalid_request", "hyperparameters.optimizer.name", "adam"),
        ({"hyperparameters": {"batch_size": 0}}, "invalid_request", "hyperparameters.batch_size", "at least 1"),
        ({"model": AFFINE | {"architecture": "afine"}}, "invalid_model", "model.architecture", "affine"),
        ({"model": AFFINE | {"kwargs": {"in": 1}}}, "invalid_model", "model.kwargs", "in_features"),
        (
            {"model": AFFINE | {"kwargs": {"in_features": 9, "out_features": 10}}},
            "invalid_model",
            "model.weights",
            r"\(10, 10\)",
        ),
        ({"task": "dance"}, "invalid_request", "task", "tabular-regression"),
        ({"device": "cuda"}, "invalid_request", "device", "CUDA"),
    ],
)
def test_what_cannot_run_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], code: str, param: str, says: str
) -> None:
    """One clear failure, before a step, with the part of the request that is wrong and what would work."""
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = attempt_json(affine_order(tmp_path).to_json() | changes, tmp_path)
    assert done.code == 1
    assert done.failure["code"] == code
    assert done.failure["param"].startswith(param)
    assert says.replace("\\", "") in done.failure["message"]
    assert done.of("step") == []


def test_divergence_stops_and_names_step_and_batch(tmp_path: Path) -> None:
    """A loss that overflows ends the run before the weights do; the last good checkpoint stays."""
    hyperparameters = {
        "n_epochs": 50,
        "batch_size": 40,
        "learning_rate": 1e6,
        "optimizer": "sgd",
        "checkpoint_steps": 1,
    }
    done = attempt(affine_order(tmp_path, hyperparameters=hyperparameters), tmp_path)
    assert (done.code, done.failure["code"]) == (1, "diverged")
    step = done.failure["errors"][0]["step"]
    assert f"step {step}" in done.failure["message"]
    assert done.failure["errors"][0]["lines"] == list(range(1, 41))
    assert f"the last checkpoint is that of step {step - 1}" in done.failure["message"]
    kept = sorted(path.name for path in done.place.checkpoints.iterdir())
    assert kept[-1] == f"step-{step - 1:08d}"


@pytest.mark.parametrize("stage", ["initialise", "train"])
def test_lazy_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """It has no shape before its first pass, so neither weights to load nor bytes to keep."""
    monkeypatch.setitem(architectures.OURS, "lazy", lambda: torch.nn.LazyLinear(2))
    done = attempt(affine_order(tmp_path, stage=stage, model={"type": "torch", "architecture": "lazy"}), tmp_path)
    assert (done.failure["code"], done.failure["param"]) == ("invalid_model", "model.architecture")
    assert "'weight'" in done.failure["message"] and "nn.Linear" in done.failure["message"]


class Leaky(Affine):
    """Writes to its own weight on every pass, behind autograd's back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data.mul_(1.01)
        return super().forward(x)


def test_leak_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen tensor that moves though everything was applied: reported with its step, no result."""
    monkeypatch.setitem(architectures.OURS, "leaky", Leaky)
    order = affine_order(tmp_path, model=AFFINE | {"architecture": "leaky"}, policy=freeze_weight("requires_grad"))
    done = attempt(order, tmp_path)
    assert (done.code, done.failure["code"]) == (1, "frozen_tensor_changed")
    assert (done.of("violation")[0]["name"], done.of("violation")[0]["first_bad_step"]) == ("weight", 1)
    operation = done.of("violation")[-1]["operation"]
    assert re.fullmatch(r"aten::mul_ at tests/worker/trainer/test_main\.py:\d+ in forward", operation)
    assert operation in done.failure["message"]
    assert not done.place.result.exists()


def test_leak_is_only_noted_where_the_policy_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """on_violation "continue": the run ends with a result whose observations say what moved."""
    monkeypatch.setitem(architectures.OURS, "leaky", Leaky)
    policy = freeze_weight("detach") | {"on_violation": "continue"}
    done = attempt(affine_order(tmp_path, model=AFFINE | {"architecture": "leaky"}, policy=policy), tmp_path)
    assert done.code == 0
    assert [each["name"] for each in done.observations["violations"]] == ["weight"]
    assert done.result["weight"]["from"] == "changed"
