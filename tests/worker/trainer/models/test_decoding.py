"""Codes as GPTQ, AWQ, compressed-tensors and Mistral publish them: decoded by their layouts, and proved as stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, FineGrainedFP8Config

from app.errors import ModelError
from app.specs.adapters import LoraSpec
from app.specs.models import TransformersSpec
from tests.worker.trainer import block_scaled_bases, mixed_codes, over_codes, published_codes
from tests.worker.trainer.attempts import Attempt
from tests.worker.trainer.block_scaled_bases import plain_of
from tests.worker.trainer.judging import judge, verified
from tests.worker.trainer.models.test_adapters import published
from tests.worker.trainer.published_codes import FORMS
from tests.worker.trainer.quantised_bases import reconfigure, rewrite
from worker.protocol import Workspace
from worker.trainer.models import loading
from worker.trainer.models.manifest import describe

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft's, on loading
    pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning"),  # that is how it is decoded
]

LORA = {"type": "lora", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
SPEC = TransformersSpec(path="tiny", adapter=LoraSpec(r=4, alpha=8, target_modules=("q_proj", "v_proj")))
LAYER = "model.layers.0.self_attn.q_proj"
#: What transformers decodes these by without other packages.
THEIRS = {
    "float8 by channel": CompressedTensorsConfig,
    "float8 by tensor, static": CompressedTensorsConfig,
    "float8 by block": CompressedTensorsConfig,
    "nvfp4": CompressedTensorsConfig,
    "mxfp4": CompressedTensorsConfig,
    "fp8 with one scale": FineGrainedFP8Config,
}


def attempt(root: Path, form: str, **changes: object) -> Attempt:
    made = partial(published_codes.base, FORMS[form])
    return over_codes.train(root, made, adapter=LORA, job_id="ftjob-published", **changes)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_what_the_layout_says(tmp_path: Path, form: str) -> None:
    """Value by value, and as transformers decodes them where it does without another package."""
    folder = published_codes.base(FORMS[form], tmp_path)
    model = loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0).model.get_base_model()
    dtype = torch.float16 if FORMS[form].float16 else torch.bfloat16
    live = {name.replace(".base_layer.", "."): each for name, each in model.state_dict().items()}
    expected = published_codes.plain(FORMS[form], load_file(folder / "model.safetensors"), dtype)
    assert len(expected) == 14
    for name, weight in expected.items():
        assert torch.equal(live[name], weight), name
    if form in THEIRS:
        theirs = AutoModelForCausalLM.from_pretrained(folder, quantization_config=THEIRS[form](dequantize=True))
        for name, weight in theirs.state_dict().items():
            assert torch.equal(live[name], weight), name


@pytest.mark.parametrize("form", ["gptq", "awq", "float8 by channel", "nvfp4"])
def test_experts_that_loading_joins_are_decoded_apart(tmp_path: Path, form: str) -> None:
    """Each expert's weight is a part of the joined tensor, value by value."""
    folder = published_codes.base(FORMS[form], tmp_path, make=block_scaled_bases.qwen3_moe)
    model = loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0).model.get_base_model()
    live = {name.replace(".base_layer.", "."): each for name, each in model.state_dict().items()}
    dtype = torch.float16 if FORMS[form].float16 else torch.bfloat16
    expected = published_codes.plain(FORMS[form], load_file(folder / "model.safetensors"), dtype)
    assert len(expected) == 20
    for name, weight in expected.items():
        assert torch.equal(block_scaled_bases.part_of(live, name), weight), name


@pytest.mark.parametrize("base", mixed_codes.BASES)
def test_modules_may_be_stored_in_forms_of_their_own(tmp_path: Path, base: str) -> None:
    """Each weight by its own form, bits and groups, value by value; and a job over them is proved as stored."""
    make, forms, dtype = mixed_codes.BASES[base]
    apart = over_codes.train(tmp_path / "job", make, adapter=LORA, job_id="ftjob-mixed", stage="make", data={})
    assert apart.code == 0, apart.reports[-1]
    again = json.loads(apart.place.made.read_text())
    done = over_codes.train(tmp_path / "job", make, adapter=LORA, job_id="ftjob-mixed")
    assert done.code == 0, done.reports[-1]
    judged = judge(done, made=again)
    assert judged.verdict == "verified", judged.reason
    report = verified(done, judged, published(done, tmp_path / "adapter"))
    assert not report.problems, report.problems
    model = loading.load(SPEC, done.place.base, task="causal-lm", labels=None, seed=0).model.get_base_model()
    live = {name.replace(".base_layer.", "."): each for name, each in model.state_dict().items()}
    expected = mixed_codes.plain(forms, load_file(done.place.base / "model.safetensors"), dtype)
    assert len(expected) == len(again) == {"mixed precision": 15, "rules of gptq": 12}[base]
    said = [str(each["message"]) for each in done.of("event")]
    assert any("transformers 5.23 does not decode" in each for each in said) == (base == "mixed precision")
    sizes = sum(weight.nbytes for weight in expected.values())
    assert any(f"computed with in {str(dtype)[6:]}: {sizes:,} bytes in memory" in each for each in said)
    for name, weight in expected.items():
        assert torch.equal(live[name], weight), name


def test_two_sizes_of_blocks_that_fit_are_refused(tmp_path: Path) -> None:
    """Scales alone do not say which of two groups of modules a weight is in, and it would be another weight."""
    form = FORMS["float8 by block"]
    folder = published_codes.base(form, tmp_path)
    group = form.config["config_groups"]["group_0"]
    other = group | {"targets": ["lm_head"], "weights": group["weights"] | {"block_structure": [24, 16]}}
    reconfigure(folder, config_groups={"group_0": group, "group_1": other})
    with pytest.raises(ModelError, match=r"fit blocks of \(16, 16\) and of \(24, 16\)"):
        loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0)


def test_blocks_that_are_cut_off_are_those_of_the_configuration(tmp_path: Path) -> None:
    """Not blocks of one smaller size, by which transformers decodes them; a job's log names such a weight."""
    folder = block_scaled_bases.qwen3(tmp_path)
    reconfigure(folder, weight_block_size=[20, 16])
    loaded = loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0)
    live = {
        name.replace(".base_layer.", "."): each for name, each in loaded.model.get_base_model().state_dict().items()
    }
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(live[name], plain_of(stored[name], stored[f"{name}_scale_inv"], (20, 16)))
    assert any("are cut off at its edge" in note and "_proj.weight' and" in note for note in loaded.notes)


@pytest.mark.parametrize("form", ["gptq_v2 by activation", "awq", "float8 by tensor, static", "nvfp4"])
def test_a_job_is_proved_over_what_is_stored(tmp_path: Path, form: str) -> None:
    """Codes, scales, zero points and groups are frozen tensors of the base, and read four times."""
    apart = attempt(tmp_path / "job", form, stage="make", data={})
    assert apart.code == 0, apart.reports[-1]
    again = json.loads(apart.place.made.read_text())
    done = attempt(tmp_path / "job", form)
    assert done.code == 0, done.reports[-1]
    judged = judge(done, made=again)
    assert judged.verdict == "verified", judged.reason
    frozen = {row.base.name: row for row in judged.rows if row.role == "frozen" and row.base}
    assert set(frozen) == set(done.base) and len(again) == 14
    for name, row in frozen.items():
        assert row.base is not None and row.decoded == again.get(name)
        assert row.loaded == row.trained == (row.decoded or row.base.sha256)
    report = verified(done, judged, published(done, tmp_path / "adapter"))
    assert not report.problems, report.problems
    said = [str(each["message"]) for each in done.of("event")]
    assert any("inputs are not rounded in training" in each for each in said) == (
        form not in ("awq", "gptq_v2 by activation")
    )
    found = describe(TransformersSpec(path="tiny"), done.place.base, task="causal-lm")
    assert isinstance(found, dict) and isinstance(found["causal-lm"], list)
    known = {row["name"]: row for row in found["causal-lm"]}
    assert known[f"{LAYER}.weight"]["module_types"][-1] == "DecodedLinear"


def without(leaf: str, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.__delitem__(f"{LAYER}.{leaf}"))


def stored(leaf: str, tensor: torch.Tensor, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({f"{LAYER}.{leaf}": tensor}))


#: A form, what is changed in its base, the code of the refusal, and what it says.
BROKEN: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    "scales of two forms": (
        "float8 by channel", partial(stored, "weight_scale_inv", torch.ones(1)), "missing_tensors",
        f"'{LAYER}.weight_scale_inv' is stored beside '{LAYER}.weight', and codes of float-quantized have no such part",
    ),
    "no zero points": ("gptq", partial(without, "qzeros"), "missing_tensors", f"without {LAYER}.qzeros"),
    "no groups of inputs": ("gptq", partial(without, "g_idx"), "missing_tensors", f"without {LAYER}.g_idx"),
    "no scales": ("awq", partial(without, "scales"), "missing_tensors", f"without {LAYER}.scales"),
    "no codes": ("awq", partial(without, "qweight"), "missing_tensors", f"the weight '{LAYER}.qweight' is not, as I32"),
    "a scale of floats": ("float8 by channel", partial(without, "weight_scale"), "missing_tensors", "weight_scale"),
    "no scale of the weight": (
        "nvfp4", partial(without, "weight_global_scale"), "missing_tensors", f"without {LAYER}.weight_global_scale",
    ),
    "a group that is none": (
        "gptq", partial(stored, "g_idx", torch.full((32,), 2, dtype=torch.int32)), "quantised_model",
        f"'{LAYER}.g_idx' names a group that is none of the 2",
    ),
    "a zero point of all bits": (
        "gptq", partial(stored, "qzeros", torch.full((2, 4), -1, dtype=torch.int32)), "quantised_model",
        f"'{LAYER}.qzeros' holds a zero point of all bits",
    ),
    "a scale of NaN": (
        "awq", partial(stored, "scales", torch.full((2, 32), float("nan")).half()), "quantised_model",
        f"'{LAYER}.scales' holds a scale that is no number",
    ),
    "scales of other groups": (
        "gptq", partial(reconfigure, group_size=8), "quantised_model", "it has to be [8, ",
    ),
    "scales by row that are by block": (
        "float8 by block", partial(stored, "weight_scale", torch.ones(32, 1).bfloat16()), "quantised_model",
        "has to be [2, 2]",
    ),
    "a whole scale of zero": (
        "nvfp4", partial(stored, "weight_global_scale", torch.zeros(1)), "quantised_model", "no positive number",
    ),
    "a layer that is said to be plain": (
        "awq", partial(reconfigure, modules_to_not_convert=["q_proj"]), "quantised_model", "lists",
    ),
    "a layer that is ignored": (
        "float8 by channel", partial(reconfigure, ignore=["lm_head", LAYER]), "quantised_model", f"lists '{LAYER}'",
    ),
    "another order of codes": (
        "awq", partial(reconfigure, version="gemv"), "quantised_model", "version is 'gemv', and gemm is read",
    ),
    "3 bits": ("gptq", partial(reconfigure, bits=3), "quantised_model", "bits are 3, and 4 or 8 are read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_whole_is_refused_by_name(tmp_path: Path, case: str) -> None:
    form, spoil, code, says = BROKEN[case]
    spoil(published_codes.base(FORMS[form], Workspace(tmp_path).create().base))
    done = attempt(tmp_path, form)
    assert (done.code, done.of("step")) == (1, [])
    assert (done.failure["code"], done.failure["param"]) == (code, "model"), done.failure
    assert says in done.failure["message"], done.failure["message"]


def test_parts_of_codes_do_not_train(tmp_path: Path) -> None:
    """Neither zero points nor groups."""
    policy = {"rules": [{"action": "train", "select": {"name": "**.qzeros"}}], "default": "freeze"}
    done = attempt(tmp_path, "gptq", policy=policy)
    assert (done.code, done.failure["code"]) == (1, "quantised_weights_train")
    assert "qzeros" in done.failure["message"]
