"""Bases that bitsandbytes stored quantised: loaded as stored, frozen whole, proved with their scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from app.freeze.adapters import adapted
from app.freeze.tensors import TensorInfo
from app.specs.adapters import LoraSpec
from app.specs.models import TransformersSpec
from tests.worker.trainer import over_codes, quantised_bases, tiny
from tests.worker.trainer.attempts import Attempt, data
from tests.worker.trainer.judging import judge, verified
from tests.worker.trainer.models.test_adapters import composed, published
from tests.worker.trainer.over_codes import EVERY, TINY
from tests.worker.trainer.quantised_bases import reconfigure
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import Workspace
from worker.trainer.models import quantised
from worker.trainer.models.manifest import describe

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading

LAYER = quantised_bases.LAYER
LORA = {"type": "lora", "r": 4, "alpha": 8}
LABELLED = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(["cat", "dog", "mat", "tree"] * 4)]


def causal(root: Path, kind: str = "nf4", *, adapter: dict[str, Any] | None = LORA, **changes: Any) -> Attempt:
    return over_codes.train(
        root, partial(quantised_bases.llama, kind=kind), adapter=adapter, job_id="ftjob-quantised", **changes
    )


@pytest.mark.parametrize("kind", quantised_bases.KINDS)
def test_codes_and_scales_are_proved_frozen(tmp_path: Path, kind: str) -> None:
    """Every tensor of the base has a frozen row with the same digest four times; the result is the adapter alone."""
    done = causal(tmp_path / "job", kind)
    assert done.code == 0, done.reports[-1]
    assert all(".lora_" in name for name in done.result)
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    frozen = {row.base.name: row for row in judged.rows if row.role == "frozen" and row.base}
    assert set(frozen) == set(done.base)
    assert all(row.loaded == row.trained == row.base.sha256 for row in frozen.values() if row.base)
    report = verified(done, judged, published(done, tmp_path / "adapter"))
    assert report.problems == () or not report.problems, report.problems
    assert done.of("step")[-1]["loss"] < done.of("step")[0]["loss"]


def test_peft_loads_the_result_over_the_base(tmp_path: Path) -> None:
    """With the usual loaders: the quantised base from its folder, the adapter beside it."""
    done = causal(tmp_path / "job")
    folder = published(done, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(done.place.base, device_map="cpu")
    model = PeftModel.from_pretrained(base, folder)
    trained = done.changed
    name = f"base_model.model.{LAYER}"
    assert torch.equal(model.state_dict()[f"{name}.lora_B.default.weight"], trained[f"{name}.lora_B.weight"])
    tokens = AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt")
    assert torch.isfinite(model(input_ids=tokens["input_ids"]).logits).all()


def classifier(root: Path, kind: str, **changes: Any) -> Attempt:
    place = Workspace(root).create()
    quantised_bases.bert(place.base, kind)
    fields = {"task": "text-classification", "data": data(place, LABELLED, "labels.jsonl")}
    return causal(root, kind, adapter=None, **fields | changes)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_head_over_a_quantised_encoder_is_a_whole_model(tmp_path: Path, kind: str) -> None:
    """The result keeps codes and scales, their configuration, and biases in their dtype; the head is a plain layer."""
    done = classifier(tmp_path / "job", kind, policy={"train": ["classifier.**", "**.pooler.dense.bias"]})
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    changed = {name for name, each in done.result.items() if each["from"] == "changed"}
    assert changed == {"classifier.weight", "classifier.bias", "bert.pooler.dense.bias"}
    assert done.changed["bert.pooler.dense.bias"].dtype == done.base["pooler.dense.bias"].dtype
    assert done.changed["classifier.weight"].dtype.is_floating_point

    whole = composed(done, tmp_path / "whole")
    report = verified(done, judged, whole)
    assert not report.problems, report.problems
    model = AutoModelForSequenceClassification.from_pretrained(whole, device_map="cpu")
    assert torch.equal(model.classifier.weight, done.changed["classifier.weight"])


@pytest.mark.parametrize("kind", ["nf4-nested", "int8"])
def test_manifest_has_the_tensors_of_the_loaded_model(tmp_path: Path, kind: str) -> None:
    """Names, shapes, dtypes and classes, without reading a weight: a policy is resolved over them before a job runs."""
    done = causal(tmp_path / "plain", kind, adapter=None, policy={"train": ["model.norm.weight"]})
    assert done.code == 0, done.reports[-1]
    rows = describe(TransformersSpec(path="tiny"), done.place.base, task="causal-lm")
    assert isinstance(rows, dict)
    infos = [TensorInfo.from_json(row) for row in rows["causal-lm"] if isinstance(row, dict)]
    known = {info.name: info for info in infos}
    loaded = {name: TensorInfo.from_json(each) for name, each in done.observed.items()}
    assert known == loaded
    lora = causal(tmp_path / "lora", kind)
    wrapped = adapted(infos, LoraSpec(r=4, alpha=8))
    trained = {name: TensorInfo.from_json(each) for name, each in lora.observed.items()}
    assert {info.name: info for info in wrapped.tensors} == trained
    packed = known[f"{LAYER}.weight"]
    assert (packed.unpacked or packed.shape) == (64, 64)


def without(name: str, folder: Path) -> None:
    quantised_bases.rewrite(folder, lambda tensors: tensors.__delitem__(name))


#: What is changed in a base of this kind; then the code of the refusal, and what it says.
BROKEN: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    "no scales": (
        "nf4", partial(without, f"{LAYER}.weight.absmax"), "missing_tensors", ".weight.absmax",
    ),
    "no codebook": ("fp4", partial(without, f"{LAYER}.weight.quant_map"), "missing_tensors", ".quant_map"),
    "no description": (
        "nf4", partial(without, f"{LAYER}.weight.quant_state.bitsandbytes__nf4"), "missing_tensors",
        "quant_state.bitsandbytes__nf4",
    ),
    "half of the nested scales": (
        "nf4-nested", partial(without, f"{LAYER}.weight.nested_quant_map"), "missing_tensors",
        ".nested_quant_map",
    ),
    "no scale of int8": ("int8", partial(without, f"{LAYER}.SCB"), "missing_tensors", ".SCB"),
    "scales without a weight": (
        "int8", partial(without, f"{LAYER}.weight"), "missing_tensors", "and the weight",
    ),
    "another kind": (
        "nf4", partial(reconfigure, bnb_4bit_quant_type="fp4"), "missing_tensors", "bitsandbytes__fp4",
    ),
    "an unknown kind": (
        "nf4", partial(reconfigure, bnb_4bit_quant_type="nf5"), "quantised_model", "known are nf4, fp4",
    ),
    "an unknown quantiser": (
        "nf4", partial(reconfigure, quant_method="shrink"), "quantised_model", "an unknown quantiser",
    ),
    "a quantiser that is not read": (
        "nf4", partial(reconfigure, quant_method="quanto"), "quantised_model", "optimum-quanto",
    ),
    "an unknown key": ("int8", partial(reconfigure, version=9), "quantised_model", "unknown key 'version'"),
    "4 and 8 bits": ("int8", partial(reconfigure, load_in_4bit=True), "quantised_model", "one of them"),
    "other containers": (
        "nf4", partial(reconfigure, bnb_4bit_quant_storage="bfloat16"), "quantised_model", "uint8",
    ),
    "a quantised layer left out": (
        "nf4", partial(reconfigure, llm_int8_skip_modules=["lm_head", "q_proj"]), "quantised_model",
        "stored quantised",
    ),
    "patterns": (
        "nf4", partial(reconfigure, llm_int8_skip_modules=["(a+)+b"]), "quantised_model", "patterns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_base_that_is_not_whole_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """Before a step, and not with an error that a second try could mend."""
    kind, spoil, code, says = BROKEN[case]
    place = Workspace(tmp_path).create()
    spoil(quantised_bases.llama(place.base, kind))
    done = causal(tmp_path, kind)
    assert (done.code, done.of("step")) == (1, [])
    assert (done.failure["code"], done.failure["param"]) == (code, "model")
    assert says in done.failure["message"], done.failure["message"]


SCALES = {"action": "train", "select": {"name": "**.absmax"}}
FOR_A_STEP = {"action": "freeze", "select": {"name": "**.q_proj.weight"}, "when": [{"from_step": 0, "to_step": 1}]}


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        ({"train": ["**.q_proj.weight"]}, "freeze_policy.train"),
        ({"freeze": ["model.norm.**"]}, "freeze_policy"),
        (
            {"default": "freeze", "rules": [{"action": "train", "select": {"name": "**.absmax"}}]},
            "freeze_policy.rules[0]",
        ),
        (
            {
                "default": "freeze",
                "rules": [
                    {
                        "action": "freeze",
                        "select": {"name": "**.q_proj.weight"},
                        "when": [{"from_step": 0, "to_step": 1}],
                    }
                ],
            },
            "freeze_policy.rules[0]",
        ),
    ],
)
def test_quantised_weights_can_only_be_frozen(tmp_path: Path, policy: dict[str, Any], where: str) -> None:
    """A rule that trains codes or scales is refused with the rule, the first name, and what would work."""
    done = causal(tmp_path, adapter=None, policy=policy)
    assert (done.code, done.of("step")) == (1, [])
    assert (done.failure["code"], done.failure["param"]) == ("quantised_weights_train", where)
    assert "_proj.weight" in done.failure["message"] and "adapter" in done.failure["message"]


def test_an_adapter_is_not_merged_into_codes(tmp_path: Path) -> None:
    """The sum would be rounded: another model than the one that was trained."""
    done = causal(tmp_path, adapter=LORA | {"merge": True})
    assert (done.code, done.failure["param"]) == (1, "model.adapter.merge")


def test_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without bitsandbytes says what to install, before anything is loaded."""
    monkeypatch.setattr(quantised, "package", lambda name=None: None)
    done = causal(tmp_path)
    assert (done.code, done.failure["code"]) == (1, "quantiser_missing")
    assert "pip install 'permafrost[quant]'" in done.failure["message"]


def made(root: Path, kind: str, *, device: str = "cpu") -> tuple[Attempt, dict[str, str]]:
    """A job over a plain base that is quantised at loading, and the digests that a process without data computes."""
    place = Workspace(root).create()
    tiny.llama(place.base, hidden_size=64, intermediate_size=128)
    spec = TINY | {"adapter": LORA, "quantize": kind}
    apart = causal(root, model=spec, stage="make", data={})
    assert apart.code == 0, apart.reports[-1]
    digests = json.loads(place.made.read_text())
    return causal(root, model=spec, device=device), digests


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_plain_base_is_quantised_while_it_is_loaded(tmp_path: Path, kind: str) -> None:
    """The evidence is about the plain base: each weight has one digest of codes and scales, the same at the end."""
    done, again = made(tmp_path, kind)
    assert done.code == 0, done.reports[-1]
    assert all(".lora_" in name for name in done.result)
    row = done.observed[f"base_model.model.{LAYER}.base_layer.weight"]
    assert (row["base"], row["result"]) == ([{"name": f"{LAYER}.weight", "rows": None}], [])
    assert row["loaded"] == row["trained"] and row["dtype"] == ("U8" if kind == "nf4" else "I8")
    assert {each["name"] for seen in done.observed.values() for each in seen["base"]} == set(done.base)
    assert done.of("step")[-1]["loss"] < done.of("step")[0]["loss"]
    judged = judge(done, made=again)
    assert judged.verdict == "verified", judged.reason
    frozen = {each.base.name: each for each in judged.rows if each.role == "frozen" and each.base}
    assert set(frozen) == set(done.base) and frozen[f"{LAYER}.weight"].quantised == again[f"{LAYER}.weight"]
    assert len(again) == 14 and frozen["model.norm.weight"].quantised is None
    report = verified(done, judged, published(done, tmp_path / "adapter"))
    assert not report.problems, report.problems
    assert any("quantised for training" in warning for warning in report.warnings)


def test_a_trainer_that_lies_about_its_codes_is_found(tmp_path: Path) -> None:
    """It may have trained on other weights than the base's: what it reports is not what quantising gives again."""
    done, again = made(tmp_path, "nf4")
    observed = done.observations
    name = f"base_model.model.{LAYER}.base_layer.weight"
    for row in observed["tensors"]:
        if row["name"] == name:
            row["loaded"] = row["trained"] = "0" * 64
    done.place.observations.write_text(json.dumps(observed))
    judged = judge(done, made=again)
    assert judged.verdict == "violated" and judged.reason is not None
    assert name in judged.reason and "when that was done again" in judged.reason
    missing = judge(done, made={key: digest for key, digest in again.items() if key != f"{LAYER}.weight"})
    assert missing.verdict != "verified"


def test_a_stored_quantised_base_is_not_quantised_again(tmp_path: Path) -> None:
    done = causal(tmp_path, model=TINY | {"adapter": LORA, "quantize": "nf4"})
    assert (done.code, done.failure["param"]) == (1, "model.quantize")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, kind: str) -> None:
    """From a checkpoint, which holds what trains alone."""
    whole = causal(tmp_path / "whole", kind)
    copy_checkpoints(whole, tmp_path / "resumed", drop=0)
    resumed = causal(tmp_path / "resumed", kind)
    assert any("step 2" in str(each["message"]) for each in resumed.of("event")), resumed.of("event")
    assert_same(whole, resumed)
    assert judge(resumed).verdict == "verified"


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_encoder_is_computed_once(tmp_path: Path, kind: str) -> None:
    """Its results are kept like those of others, under a key that has codes and scales; the head is the same."""
    policy = {"train": ["classifier.**"]}
    runs = []
    for cached in (True, False):
        wanted = EVERY | {"n_epochs": 3, "prefix_cache": cached, "padding_free": False, "frozen_dropout": False}
        done = classifier(tmp_path / str(cached), kind, policy=policy, hyperparameters=wanted)
        assert done.code == 0, done.reports[-1]
        assert judge(done).verdict == "verified"
        runs.append(done)
    said = [str(each["message"]) for each in runs[0].of("event")]
    assert not any("computed anew" in message for message in said), said
    for name, tensor in runs[0].changed.items():
        assert torch.allclose(tensor, runs[1].changed[name], atol=1e-2), name
