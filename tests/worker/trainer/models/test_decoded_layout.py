"""Bases in small floats with block scales: decoded once, proved as they are stored, trained by adapters alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, FineGrainedFP8Config, Mxfp4Config

from app.freeze.adapters import adapted
from app.freeze.tensors import TensorInfo
from app.specs.adapters import LoraSpec
from app.specs.models import TransformersSpec
from tests.worker.trainer import block_scaled_bases, over_codes, tiny
from tests.worker.trainer.attempts import Attempt, data
from tests.worker.trainer.block_scaled_bases import LAYER, coded, listed, scales_elsewhere
from tests.worker.trainer.judging import judge, verified
from tests.worker.trainer.models.test_adapters import published
from tests.worker.trainer.over_codes import TINY
from tests.worker.trainer.quantised_bases import reconfigure, rewrite
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import Workspace
from worker.trainer.models import loading
from worker.trainer.models.manifest import describe

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading

LORA = {"type": "lora", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
SPEC = TransformersSpec(path="tiny", adapter=LoraSpec(r=4, alpha=8, target_modules=("q_proj", "v_proj")))
SCALE = f"{LAYER}.weight_scale_inv"
JOINED = "model.layers.0.mlp.experts"


#: How a base of each form is made.
FORMS: dict[str, Callable[[Path], Path]] = {
    "fp8": block_scaled_bases.qwen3,
    "fp8 with scales in float32": partial(block_scaled_bases.qwen3, scales=torch.float32),
    "fp8 of experts": block_scaled_bases.qwen3_moe,
    "mxfp4": block_scaled_bases.gpt_oss,
}
#: What transformers decodes them by.
OPTIONS = {"fp8": FineGrainedFP8Config, "fp8 of experts": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
#: How many of the tests' weights are codes, and what they are said to take.
SIZES = {
    "fp8": "14 weights are stored in fp8 and computed with in bfloat16: 36,864 bytes in memory, 18,432",
    "fp8 of experts": "20 weights are stored in fp8 and computed with in bfloat16: 36,864 bytes in memory, 18,432",
    "mxfp4": "4 weights are stored in mxfp4 and computed with in bfloat16: 49,152 bytes in memory, 12,288",
}


def causal(root: Path, form: str = "fp8", *, adapter: dict[str, Any] | None = LORA, **changes: Any) -> Attempt:
    return over_codes.train(root, FORMS[form], adapter=adapter, job_id="ftjob-decoded", **changes)


def made(root: Path, form: str = "fp8") -> dict[str, str]:
    """The digests that a process without data computes."""
    apart = causal(root, form, stage="make", data={})
    assert apart.code == 0, apart.reports[-1]
    digests: dict[str, str] = json.loads(apart.place.made.read_text())
    return digests


@pytest.mark.parametrize("form", FORMS)
def test_a_job_over_codes_is_proved_as_they_are_stored(tmp_path: Path, form: str) -> None:
    """Codes and scales are frozen tensors of the base; a row of codes has the digest of what they were decoded to."""
    again = made(tmp_path / "job", form)
    done = causal(tmp_path / "job", form)
    assert done.code == 0, done.reports[-1]
    assert all(".lora_" in name for name in done.result)
    judged = judge(done, made=again)
    assert judged.verdict == "verified", judged.reason
    frozen = {row.base.name: row for row in judged.rows if row.role == "frozen" and row.base}
    assert set(frozen) == set(done.base)
    for name, digest in again.items():
        codes = frozen[name]
        assert codes.base is not None and codes.base.dtype in ("F8_E4M3", "U8")
        assert codes.decoded == codes.loaded == codes.trained == digest != codes.base.sha256
    assert all(row.loaded == row.trained == row.base.sha256 for row in frozen.values() if row.base and not row.decoded)
    report = verified(done, judged, published(done, tmp_path / "adapter"))
    assert not report.problems, report.problems
    assert any("decoded for training" in warning for warning in report.warnings)
    assert done.of("step")[-1]["loss"] < done.of("step")[0]["loss"]
    said = [str(each["message"]) for each in done.of("event")]
    assert f"{SIZES.get(form, SIZES['fp8'])} as stored" in said
    card = (done.place.files / "README.md").read_text()
    joined = 4 if "experts" in form else 0  # gates and ups of experts are joined, and all of a layer
    live = joined + sum(".experts." not in name for name in again) if joined else len(again)
    assert f"{live} weights of the model were decoded for the computation from codes" in card


@pytest.mark.parametrize("form", OPTIONS)
def test_decoding_is_what_the_format_says_and_what_transformers_does(tmp_path: Path, form: str) -> None:
    """Value by value; and peft over the base, as transformers loads it, gives the logits of the job's model."""
    done = causal(tmp_path / "job", form)
    folder = published(done, tmp_path / "adapter")
    stored = load_file(done.place.base / "model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(
        done.place.base, quantization_config=OPTIONS[form](dequantize=True), dtype=torch.bfloat16
    )
    ours = loading.load(SPEC, done.place.base, task="causal-lm", labels=None, seed=0).model
    theirs, live = base.state_dict(), ours.get_base_model().state_dict()
    decoded = block_scaled_bases.decoded(stored)
    for name, plain in decoded.items():
        assert torch.equal(plain, block_scaled_bases.part_of(theirs, name)), name
    for name, tensor in theirs.items():
        mine = live.get(name, live.get(".base_layer.".join(name.rsplit(".", 1))))
        assert mine is not None and torch.equal(tensor, mine), name
    assert len(decoded) == int(SIZES[form].partition(" ")[0])
    model = PeftModel.from_pretrained(base, folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt")["input_ids"]
    adapter = done.changed
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            if ".lora_" in name:
                tensor.copy_(adapter[name.replace(".default.", ".")])
        assert torch.equal(model(input_ids=tokens).logits, ours.eval()(input_ids=tokens).logits)


#: Ordinary ways of publishing such a base: options of its model, and what is changed then.
LAYOUTS: dict[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "nothing stays plain": ({}, partial(listed, [])),
    "null for what stays plain": ({}, partial(listed, None)),
    "names of tensors stay plain": ({}, partial(listed, ["lm_head.weight", "model.norm.weight"])),
    "a head in codes": ({}, partial(coded, "lm_head.weight")),
    "an embedding in codes": ({}, partial(coded, "model.embed_tokens.weight")),
    "a tied embedding": ({"tie_word_embeddings": True}, partial(listed, ["lm_head"])),
    "a tied embedding in codes": ({"tie_word_embeddings": True}, partial(coded, "model.embed_tokens.weight")),
    "a tied head in codes": ({"tie_word_embeddings": True}, partial(coded, "lm_head.weight")),
    "scales in another shard": ({}, scales_elsewhere),
    "biases": ({"attention_bias": True}, partial(listed, ["lm_head"])),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ordinary_layouts_are_read_as_transformers_reads_them(tmp_path: Path, layout: str) -> None:
    options, change = LAYOUTS[layout]
    folder = block_scaled_bases.qwen3(tmp_path, **options)
    change(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=FineGrainedFP8Config(dequantize=True))
    ours = loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0).model
    theirs, live = base.state_dict(), ours.get_base_model().state_dict()
    for name, tensor in theirs.items():
        mine = live.get(name, live.get(".base_layer.".join(name.rsplit(".", 1))))
        assert mine is not None and torch.equal(tensor, mine), name
    shared = [model.get_output_embeddings().weight is model.get_input_embeddings().weight for model in (base, ours)]
    assert shared[0] == shared[1]
    kinds = {type(module).__name__ for module in ours.modules()}
    assert "DecodedExperts" not in kinds and ("DecodedEmbedding" in kinds or "embedding in codes" not in layout)


@pytest.mark.parametrize("form", OPTIONS)
def test_scales_follow_their_codes_whatever_other_buffers_do(tmp_path: Path, form: str) -> None:
    """A policy that tracks buffers freezes scales, which are parts of frozen weights."""
    done = causal(tmp_path, form, policy={"buffers": "track"})
    assert done.code == 0, done.reports[-1]
    judged = judge(done, made=made(tmp_path, form))
    assert judged.verdict == "verified", judged.reason
    assert {row.base.name for row in judged.rows if row.role == "frozen" and row.base} == set(done.base)


def test_a_trainer_over_other_weights_is_found(tmp_path: Path) -> None:
    """It may have trained beside other weights than the base's: what it reports is not what decoding gives again."""
    again = made(tmp_path)
    done = causal(tmp_path)
    observed = done.observations
    name = f"base_model.model.{LAYER}.base_layer.weight"
    for row in observed["tensors"]:
        if row["name"] == name:
            row["loaded"] = row["trained"] = "0" * 64
    done.place.observations.write_text(json.dumps(observed))
    judged = judge(done, made=again)
    assert judged.verdict == "violated" and judged.reason is not None
    assert name in judged.reason and "not what decoding the base gives" in judged.reason
    assert (
        judge(done, made={key: each for key, each in again.items() if key != f"{LAYER}.weight"}).verdict != "verified"
    )
    assert judge(done).verdict == "incomplete"


@pytest.mark.parametrize("form", OPTIONS)
def test_a_killed_job_ends_with_the_same_bits(tmp_path: Path, form: str) -> None:
    """A checkpoint holds what trains alone; the base is decoded again."""
    whole = causal(tmp_path / "whole", form)
    copy_checkpoints(whole, tmp_path / "again", drop=0)
    FORMS[form](Workspace(tmp_path / "again").base)
    again = causal(tmp_path / "again", form)
    assert any("goes on after step" in each["message"] for each in again.of("event"))
    assert_same(whole, again)


@pytest.mark.parametrize("form", OPTIONS)
def test_the_plan_is_known_without_loading(tmp_path: Path, form: str) -> None:
    """The manifest has the tensors of the loaded model: weights in 16 bits, as they are in memory, and their scales."""
    done = causal(tmp_path, form)
    found = describe(TransformersSpec(path="tiny"), done.place.base, task="causal-lm")
    assert isinstance(found, dict) and isinstance(found["causal-lm"], list)
    plain = [TensorInfo.from_json(row) for row in found["causal-lm"]]
    wrapped = adapted(plain, LoraSpec(r=4, alpha=8, target_modules=("q_proj", "v_proj")))
    trained = {name: TensorInfo.from_json(each) for name, each in done.observed.items()}
    assert {info.name: info for info in wrapped.tensors} == trained
    weight, scale = {
        "fp8": (f"{LAYER}.weight", SCALE),
        "fp8 of experts": (f"{JOINED}.down_proj", f"{JOINED}.1.down_proj.weight_scale_inv"),
        "mxfp4": (f"{JOINED}.down_proj", f"{JOINED}.down_proj_scales"),
    }[form]
    known = {info.name: info for info in plain}
    assert (known[weight].dtype, known[weight].kind, known[scale].kind) == ("BF16", "parameter", "buffer")
    assert known[scale].dtype == ("U8" if form == "mxfp4" else "BF16")


def without(name: str, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.__delitem__(name))


def scaled(value: float, folder: Path) -> None:
    """One scale has this value."""
    rewrite(folder, lambda tensors: tensors[SCALE].view(-1)[:1].fill_(value))


def stored(name: str, tensor: torch.Tensor, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({name: tensor}))


def one_block(folder: Path) -> None:
    """The configuration says that a weight has one scale."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["quantization_config"]["weight_block_size"] = None
    path.write_text(json.dumps(content))


def spoilt(folder: Path) -> None:
    """One code is NaN."""
    rewrite(folder, lambda tensors: tensors[f"{LAYER}.weight"].view(torch.uint8)[0, :1].fill_(0x7F))


#: What is changed in a base; then the code of the refusal, and what it says.
BROKEN: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no scales": (partial(without, SCALE), "missing_tensors", f"without {SCALE}"),
    "scales without a weight": (partial(without, f"{LAYER}.weight"), "missing_tensors", "is not, as F8_E4M3"),
    "scales of another shape": (partial(stored, SCALE, torch.ones(1, 1)), "quantised_model", "has to be [2, 2]"),
    "scales in another dtype": (partial(stored, SCALE, torch.ones(2, 2).double()), "missing_tensors", "F32 or BF16"),
    "a scale of NaN": (partial(scaled, float("nan")), "quantised_model", f"'{SCALE}' holds a scale"),
    "a scale of zero": (partial(scaled, 0.0), "quantised_model", "no positive number"),
    "a scale below zero": (partial(scaled, -1.0), "quantised_model", "no positive number"),
    "a scale beyond the dtype": (partial(scaled, 3e38), "quantised_model", "is infinite with its scales"),
    "a code of NaN": (spoilt, "quantised_model", f"'{LAYER}.weight' holds codes of NaN"),
    "an embedding in codes": (
        partial(stored, "model.norm.weight", torch.ones(32).to(torch.float8_e5m2)), "missing_tensors",
        "'model.norm.weight' is stored as F8_E5M2",
    ),
    "other activations": (
        partial(reconfigure, activation_scheme="token"), "quantised_model", "activation_scheme is 'token'",
    ),
    "no size of blocks": (
        partial(reconfigure, weight_block_size=None), "quantised_model", "has to be [1, 1]",
    ),
    "one scale for a weight": (one_block, "quantised_model", "has to be [1, 1]"),
    "larger blocks": (partial(reconfigure, weight_block_size=[128, 128]), "quantised_model", "has to be [1, 1]"),
    "an unknown option": (partial(reconfigure, per_channel=True), "quantised_model", "unknown key 'per_channel'"),
    "a layer that is said to be plain": (
        partial(reconfigure, modules_to_not_convert=["lm_head", "model.layers.0.self_attn.q_proj"]), "quantised_model",
        f"lists '{LAYER}' as stored plain",
    ),
    "float8 of which nothing is said": (
        partial(reconfigure, quant_method="bitsandbytes", load_in_8bit=True, fmt=None, activation_scheme=None,
                weight_block_size=None, modules_to_not_convert=None), "missing_tensors", "codes of int8 are I8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_base_that_is_not_whole_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """Before a step, and not with an error that a second try could mend."""
    spoil, code, says = BROKEN[case]
    place = Workspace(tmp_path).create()
    spoil(block_scaled_bases.qwen3(place.base))
    done = causal(tmp_path)
    assert (done.code, done.of("step")) == (1, [])
    assert (done.failure["code"], done.failure["param"]) == (code, "model"), done.failure
    assert says in done.failure["message"], done.failure["message"]


EXPERTS = "model.layers.1.mlp.experts.down_proj"
#: The same for experts in 4 bits.
BROKEN_EXPERTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no scales": (partial(without, f"{EXPERTS}_scales"), "missing_tensors", f"without {EXPERTS}_scales"),
    "scales without codes": (partial(without, f"{EXPERTS}_blocks"), "missing_tensors", "is not, as U8"),
    "scales of another shape": (
        partial(stored, f"{EXPERTS}_scales", torch.ones(2, 64, 2).to(torch.uint8)), "quantised_model",
        "has to be [2, 64, 1]",
    ),
    "codes of another shape": (
        partial(stored, f"{EXPERTS}_blocks", torch.ones(2, 64, 32).to(torch.uint8)), "quantised_model",
        "in blocks of 16 bytes",
    ),
    "an exponent that is none": (
        partial(stored, f"{EXPERTS}_scales", torch.full((2, 64, 1), 255).to(torch.uint8)), "quantised_model",
        f"'{EXPERTS}_scales' holds a scale that is no positive number",
    ),
    "an exponent beyond the dtype": (
        partial(stored, f"{EXPERTS}_scales", torch.full((2, 64, 1), 254).to(torch.uint8)), "quantised_model",
        "is infinite with its scales",
    ),
    "an unknown option": (partial(reconfigure, block_size=32), "quantised_model", "unknown key 'block_size'"),
    "experts that are said to be plain": (
        partial(reconfigure, modules_to_not_convert=["lm_head", "model.layers.*.mlp"]), "quantised_model",
        "lists 'model.layers.0.mlp.experts' as stored plain",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_EXPERTS)
def test_experts_that_are_not_whole_are_refused_by_name(tmp_path: Path, case: str) -> None:
    spoil, code, says = BROKEN_EXPERTS[case]
    spoil(block_scaled_bases.gpt_oss(Workspace(tmp_path).create().base))
    done = causal(tmp_path, "mxfp4")
    assert (done.code, done.of("step")) == (1, [])
    assert (done.failure["code"], done.failure["param"]) == (code, "model"), done.failure
    assert says in done.failure["message"], done.failure["message"]


def test_experts_of_which_one_is_plain_are_refused(tmp_path: Path) -> None:
    """Joined with the others, it would be decoded from what it is not stored as."""
    place = Workspace(tmp_path).create()
    block_scaled_bases.qwen3_moe(place.base)
    name = f"{JOINED}.1.down_proj.weight"
    without(f"{name}_scale_inv", place.base)
    stored(name, torch.ones(32, 32).to(torch.bfloat16), place.base)
    done = causal(tmp_path)
    assert (done.code, done.failure["code"]) == (1, "quantised_model")
    assert f"'{JOINED}.0.down_proj.weight' is stored as codes" in done.failure["message"]


def refused(done: Attempt) -> tuple[str, str | None, str]:
    assert (done.code, done.of("step")) == (1, [])
    return done.failure["code"], done.failure["param"], done.failure["message"]


def test_what_is_not_trained_over_codes(tmp_path: Path) -> None:
    """No whole model, no new head, no merging, no quantising again, and nothing of the codes."""
    code, param, _ = refused(causal(tmp_path / "whole", adapter=None, policy={"train": ["model.norm.weight"]}))
    assert (code, param) == ("quantised_model", "model.adapter")
    code, param, _ = refused(causal(tmp_path / "merged", adapter=LORA | {"merge": True}))
    assert (code, param) == ("quantised_model", "model.adapter.merge")
    code, param, _ = refused(causal(tmp_path / "again", model=TINY | {"adapter": LORA, "quantize": "nf4"}))
    assert (code, param) == ("quantised_model", "model.quantize")
    labelled = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS[2:12])]
    given = data(Workspace(tmp_path / "head").create(), labelled, "labels.jsonl")
    code, param, message = refused(causal(tmp_path / "head", task="text-classification", data=given))
    assert (code, param) == ("quantised_model", "task") and "'score'" in message
    for name in (f"**.{LAYER.rpartition('.')[2]}.**.weight", "**.weight_scale_inv"):
        policy = {"rules": [{"action": "train", "select": {"name": name}}], "default": "freeze"}
        code, _, message = refused(causal(tmp_path / "codes", policy=policy))
        assert code == "quantised_weights_train" and "_proj" in message
    for form, name in product(("mxfp4", "fp8 of experts"), ("**.experts.down_proj", "**.experts.**_scale*")):
        policy = {"rules": [{"action": "train", "select": {"name": name}}], "default": "freeze"}
        code, _, message = refused(causal(tmp_path / f"{form}", form, policy=policy))
        assert code == "quantised_weights_train" and ".experts." in message
