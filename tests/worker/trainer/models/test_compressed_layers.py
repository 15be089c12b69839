"""Bases that compressed-tensors packed: loaded as stored, left as stored in every pass, and proved below adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from app.freeze.adapters import adapted
from app.freeze.tensors import TensorInfo
from app.specs.adapters import LoraSpec
from app.specs.models import TransformersSpec
from tests.worker.trainer import over_codes, packed_bases, tiny
from tests.worker.trainer.attempts import Attempt, data
from tests.worker.trainer.judging import judge, verified
from tests.worker.trainer.models.test_adapters import published
from tests.worker.trainer.packed_bases import LAYER, reconfigure
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import Workspace
from worker.trainer.models import loading
from worker.trainer.models.manifest import describe

pytest.importorskip("compressed_tensors", reason="the package is not installed here: permafrost[quant]")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading

SPEC = TransformersSpec(path="tiny", adapter=LoraSpec(r=4, target_modules=("q_proj", "v_proj")))
LORA = {"type": "lora", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def causal(root: Path, kind: str = "W4A16", *, adapter: dict[str, Any] | None = LORA, **changes: Any) -> Attempt:
    return over_codes.train(
        root, partial(packed_bases.llama, kind=kind), adapter=adapter, job_id="ftjob-packed", **changes
    )


@pytest.mark.parametrize("kind", packed_bases.KINDS)
def test_codes_and_scales_are_proved_frozen(tmp_path: Path, kind: str) -> None:
    """Every tensor of the base has a frozen row with the same digest four times; the result is the adapter alone."""
    done = causal(tmp_path / "job", kind)
    assert done.code == 0, done.reports[-1]
    assert all(".lora_" in name for name in done.result)
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    frozen = {row.base.name: row for row in judged.rows if row.role == "frozen" and row.base}
    assert set(frozen) == set(done.base)
    assert f"{LAYER}.weight_packed" in frozen
    assert all(row.loaded == row.trained == row.base.sha256 for row in frozen.values() if row.base)
    report = verified(done, judged, published(done, tmp_path / "adapter"))
    assert not report.problems, report.problems
    assert done.of("step")[-1]["loss"] < done.of("step")[0]["loss"]
    assert any("compressed-tensors" in str(each.get("recipe")) for each in done.of("done"))


@pytest.mark.parametrize("kind", packed_bases.KINDS)
def test_a_pass_gives_what_the_package_gives_and_leaves_the_codes(tmp_path: Path, kind: str) -> None:
    """The package unpacks the whole model in its first pass; here codes stay, and the logits are the same."""
    base = packed_bases.llama(tmp_path / "base", kind)
    stored = load_file(base / "model.safetensors")
    loaded = loading.load(SPEC, base, task="causal-lm", labels=None, seed=0)
    tokens = {"input_ids": torch.arange(12).reshape(2, 6) % 20}
    with torch.no_grad():
        ours = loaded.model.get_base_model()(**tokens).logits  # an adapter is zero before it trains
        theirs = AutoModelForCausalLM.from_pretrained(base)(**tokens).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    live = dict(loaded.model.named_parameters())
    for name, tensor in stored.items():
        if name.startswith(LAYER):
            held = live[f"base_model.model.{LAYER}.base_layer{name.removeprefix(LAYER)}"]
            assert torch.equal(held, tensor) and not held.requires_grad


def test_gradients_are_those_of_the_unpacked_weight(tmp_path: Path) -> None:
    """Through a packed layer to what lies before it."""
    from worker.trainer.models.compressed_layers import CompressedLinear

    base = packed_bases.llama(tmp_path / "base")
    loaded = loading.load(SPEC, base, task="causal-lm", labels=None, seed=0)
    layer = loaded.model.get_base_model().get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, CompressedLinear)
    x = torch.randn(3, 32, requires_grad=True)
    layer(x).square().sum().backward()
    weight = layer.unpacked(torch.float32)
    other = x.detach().clone().requires_grad_()
    (other @ weight.T).square().sum().backward()
    assert x.grad is not None and other.grad is not None
    assert torch.allclose(x.grad, other.grad, atol=1e-4)


def test_a_killed_job_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Over packed codes as over others."""
    whole = causal(tmp_path / "whole")
    copy_checkpoints(whole, tmp_path / "again", drop=0)
    packed_bases.llama(Workspace(tmp_path / "again").base)
    again = causal(tmp_path / "again")
    assert any("goes on after step" in each["message"] for each in again.of("event"))
    assert_same(whole, again)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")  # it says that dequantize is taken
def test_peft_loads_the_result_over_the_base(tmp_path: Path) -> None:
    """With the usual loaders, where they unpack the base: peft takes no layer that is still packed."""
    done = causal(tmp_path / "job")
    folder = published(done, tmp_path / "adapter")
    unpacked = CompressedTensorsConfig(dequantize=True)
    base = AutoModelForCausalLM.from_pretrained(done.place.base, quantization_config=unpacked)
    model = PeftModel.from_pretrained(base, folder)
    held = model.state_dict()[f"base_model.model.{LAYER}.lora_B.default.weight"]
    assert torch.equal(held, done.changed[f"base_model.model.{LAYER}.lora_B.weight"])
    tokens = AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt")
    assert torch.isfinite(model(input_ids=tokens["input_ids"]).logits).all()


def test_the_plan_is_known_without_loading(tmp_path: Path) -> None:
    """The manifest of a packed base, with an adapter beside it, has the tensors of the loaded model."""
    done = causal(tmp_path)
    found = describe(TransformersSpec(path="tiny"), done.place.base, task="causal-lm")
    assert isinstance(found, dict) and isinstance(found["causal-lm"], list)
    plain = [TensorInfo.from_json(row) for row in found["causal-lm"]]
    wrapped = adapted(plain, LoraSpec(r=4, alpha=8, target_modules=("q_proj", "v_proj")))
    trained = {name: TensorInfo.from_json(each) for name, each in done.observed.items()}
    assert {info.name: info for info in wrapped.tensors} == trained
    assert any(each.unpacked == (32, 32) for each in plain if each.name == f"{LAYER}.weight_packed")


def refused(done: Attempt) -> tuple[str, str | None, str]:
    assert done.code != 0
    return done.failure["code"], done.failure["param"], done.failure["message"]


@pytest.mark.parametrize("leaf", ["weight_scale", "weight_shape", "weight_packed"])
def test_a_weight_without_a_part_is_refused(tmp_path: Path, leaf: str) -> None:
    """By the name of what is missing, before training."""
    place = Workspace(tmp_path).create()
    path = packed_bases.llama(place.base) / "model.safetensors"
    tensors = load_file(path)
    del tensors[f"{LAYER}.{leaf}"]
    save_file(tensors, path, metadata={"format": "pt"})
    code, _, message = refused(causal(tmp_path))
    assert code == "missing_tensors" and f"{LAYER}.{leaf}" in message


def test_what_is_not_trained_over_packed_codes(tmp_path: Path) -> None:
    """No whole model, no new head, no merging, and nothing of the codes."""
    code, param, _ = refused(causal(tmp_path / "whole", adapter=None, policy={"train": ["model.norm.weight"]}))
    assert (code, param) == ("quantised_model", "model.adapter")
    code, param, _ = refused(causal(tmp_path / "merged", adapter=LORA | {"merge": True}))
    assert (code, param) == ("quantised_model", "model.adapter.merge")
    code, param, message = refused(causal(tmp_path / "dora", adapter=LORA | {"use_dora": True}))
    assert (code, param) == ("quantised_model", "model.adapter.use_dora")
    labelled = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS[2:12])]
    place = Workspace(tmp_path / "head").create()
    given = data(place, labelled, "labels.jsonl")
    code, param, message = refused(causal(tmp_path / "head", task="text-classification", data=given))
    assert (code, param) == ("quantised_model", "task") and "'score'" in message
    policy = {"rules": [{"action": "train", "select": {"name": "**.weight_scale"}}], "default": "freeze"}
    code, _, message = refused(causal(tmp_path / "scales", policy=policy))
    assert code == "quantised_weights_train" and "weight_scale" in message


def test_rounded_activations_are_refused(tmp_path: Path) -> None:
    """A rounded input has no gradient."""
    place = Workspace(tmp_path).create()
    packed_bases.llama(place.base)
    config = {"targets": ["Linear"], "weights": packed_bases.KINDS["W4A16"], "format": "pack-quantized"}
    rounded = config | {"input_activations": {"num_bits": 8, "type": "int"}}
    reconfigure(place.base, config_groups={"group_0": rounded})
    code, _, message = refused(causal(tmp_path))
    assert code == "quantised_model" and "input_activations" in message
