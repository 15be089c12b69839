"""What a configuration says of quantised weights, and whether the stored tensors are all of them."""

from typing import Any

import pytest

from app.evidence.format.block_scaled import Decoding
from app.evidence.format.quantised import (
    Quantisation,
    QuantisationError,
    computed_name,
    hole,
    is_scale,
    left_out,
    listed_plain,
    quantisation_of,
    quantised_weights,
    scales,
)

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
WHOLE = {
    "up.weight": "U8",
    "up.weight.absmax": "F32",
    "up.weight.quant_map": "F32",
    "up.weight.quant_state.bitsandbytes__nf4": "U8",
    "up.bias": "BF16",
    "norm.weight": "BF16",
}
EIGHT = {"up.weight": "I8", "up.SCB": "F32", "up.weight_format": "U8"}


SMALL = (Decoding("fp8", (128, 128), rounds_inputs=True),)


def config(value: Any) -> dict[str, Any]:
    return {"model_type": "toy", "quantization_config": value}


def test_kinds_that_are_read() -> None:
    """By bitsandbytes' own keys, with and without the underscore that transformers writes as well."""
    assert quantisation_of({"model_type": "toy", "quantization_config": None}) is None
    assert quantisation_of(config(NF4)) == Quantisation("bitsandbytes", "nf4")
    assert quantisation_of(config({**NF4, "bnb_4bit_quant_type": "fp4"})) == Quantisation("bitsandbytes", "fp4")
    skipped = {"quant_method": "bitsandbytes", "_load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}
    assert quantisation_of(config(skipped)) == Quantisation("bitsandbytes", "int8", ("lm_head",))
    small = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
    assert quantisation_of(config(small)) == Quantisation("fp8", "fp8", ("lm_head",), SMALL)


def test_forms_that_are_read_below_adapters_alone() -> None:
    """Loaders make floats of them; of codes in float8 so does a job."""
    small = quantisation_of(config({"quant_method": "fp8", "weight_block_size": [128, 128]}))
    assert small is not None and small.decoded and small.below_adapters
    experts = quantisation_of(config({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.router"]}))
    assert experts == Quantisation("mxfp4", "mxfp4", ("model.layers.*.router",), (Decoding("mxfp4", bits=4),))
    gptq = quantisation_of(config({"quant_method": "gptq", "bits": 4, "group_size": 128}))
    assert gptq == Quantisation("gptq", "gptq", None, (Decoding("gptq", bits=4, group=128, offset=1),))
    assert not Quantisation("compressed-tensors", "int4").decoded
    assert Quantisation("compressed-tensors", "int4").below_adapters
    assert not Quantisation("bitsandbytes", "nf4").below_adapters


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (config({"quant_method": "hqq", "bits": 4}), "'quantization_config' (hqq): transformers reads it with"),
        (config({"quant_method": "nvfp4"}), "transformers has no class that reads it"),
        (config({"quant_method": ["fp8"]}), "an unknown quantiser"),
        (config({"quant_method": "mxfp4", "modules_to_not_convert": ["a.**"]}), "other patterns are not read"),
        (
            config({"quant_method": "shrink"}),
            "an unknown quantiser; known are bitsandbytes, compressed-tensors, fp8, mxfp4, gptq",
        ),
        (config({"quant_method": "fp8", "activation_scheme": "token"}), "(fp8): activation_scheme is 'token'"),
        (
            config({"quant_method": "fp8", "weight_block_size": [1, 1], "modules_to_not_convert": ["a.*"]}),
            "(fp8): modules_to_not_convert is not a list of names",
        ),
        (config({"bits": 4}), "an unknown quantiser"),
        (config([1]), "plain weights"),
        ({"compression_config": {"format": "packed"}}, "'compression_config' (packed)"),
        ({"text_config": config(NF4)}, "'text_config.quantization_config' (bitsandbytes)"),
        ({"parts": [config(NF4)]}, "'parts[0].quantization_config'"),
        (config({**NF4, "version": 2}), "unknown key 'version'"),
        (config({"quant_method": "bitsandbytes"}), "load_in_4bit or load_in_8bit"),
        (config({**NF4, "load_in_8bit": True}), "one of them"),
        (config({**NF4, "bnb_4bit_quant_type": "nf5"}), "unknown bnb_4bit_quant_type 'nf5'; known are nf4, fp4"),
        (config({**NF4, "bnb_4bit_quant_storage": "bfloat16"}), "only codes that are stored as uint8"),
        (config({**INT8, "llm_int8_has_fp16_weight": True}), "not stored quantised"),
        (config({**INT8, "llm_int8_skip_modules": "head"}), "not a list of names"),
        (config({**INT8, "llm_int8_skip_modules": ["(a+)+b"]}), "patterns are not read"),
        (config({**INT8, "llm_int8_skip_modules": ["a"] * 10_001}), "10,001 names"),
    ],
)
def test_forms_that_are_not_read_are_named(content: dict[str, Any], says: str) -> None:
    """With the key, the method and the reason."""
    with pytest.raises(QuantisationError) as refused:
        quantisation_of(content)
    assert says in str(refused.value)


def test_codes_and_scales_by_name() -> None:
    """A bias or a norm is neither, and a module at the root has no path."""
    assert scales(WHOLE) == {"up.": {"weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"}}
    assert quantised_weights(WHOLE) == {"up.weight"}
    assert quantised_weights({"weight": "I8", "SCB": "F32"}) == {"weight"}
    assert quantised_weights({"up.weight": "F8_E4M3", "down.weight": "BF16"}) == {"up.weight"}
    assert (
        is_scale("a.b.weight.nested_absmax") and is_scale("SCB") and not is_scale("a.weight") and not is_scale("a.bias")
    )


@pytest.mark.parametrize("name", [name for name in WHOLE if name.startswith("up.weight")])
def test_each_part_is_needed(name: str) -> None:
    """Without any one of them the weight cannot be computed, and is named."""
    kind = Quantisation("bitsandbytes", "nf4")
    assert hole(WHOLE, kind) is None
    problem = hole({key: code for key, code in WHOLE.items() if key != name}, kind)
    assert problem is not None and name in problem


@pytest.mark.parametrize(
    ("stored", "kind", "says"),
    [
        (EIGHT, "int8", None),
        ({"up.weight": "I8"}, "int8", "without up.SCB"),
        (EIGHT, "nf4", "codes of nf4 are U8"),
        (WHOLE, "fp4", "without up.weight.quant_state.bitsandbytes__fp4"),
        ({**WHOLE, "up.weight.nested_absmax": "F32"}, "nf4", "without up.weight.nested_quant_map"),
        ({"up.weight": "BF16"}, "nf4", "none is stored so"),
    ],
)
def test_what_is_missing_is_said(stored: dict[str, str], kind: str, says: str | None) -> None:
    problem = hole(stored, Quantisation("bitsandbytes", kind))
    assert (problem is None) if says is None else (problem is not None and says in problem)


def test_modules_that_stay_plain() -> None:
    """As transformers decides: by whole segments at the beginning, or by the end of the path."""
    is_left_out = left_out(["lm_head", "model.layers.1", "gate"])
    assert [
        path for path in ("lm_head", "model.layers.1.mlp.up", "model.layers.0.mlp.gate") if not is_left_out(path)
    ] == []
    assert not any(map(is_left_out, ("model.layers.11.mlp.up", "model.layers.0.mlp.gate_proj", "lm_heads")))
    assert not left_out([])("lm_head")
    any_layer = left_out(["model.layers.*.self_attn", "lm_head"])
    assert any_layer("model.layers.7.self_attn.q_proj") and any_layer("lm_head")
    assert not any_layer("model.layers.7.mlp.experts") and not any_layer("model.layers.self_attn")


def test_what_is_listed_as_plain() -> None:
    """In the words of each package: names of modules, parts of names, and how names begin or end."""

    def listed(method: str, name: str, path: str) -> bool:
        return listed_plain(Quantisation(method, "any", (name,), (Decoding("any"),)))(path)

    assert listed("compressed-tensors", "lm_head", "lm_head") and not listed("compressed-tensors", "up", "mlp.up")
    assert not listed("compressed-tensors", "re:.*up", "mlp.up")
    assert listed("awq", "visual", "model.visual.blocks.0.up") and not listed("awq", "visual", "model.layers.0.up")
    assert listed("fp8", "up", "mlp.up") and not listed("fp8", "up", "mlp.up.down")


@pytest.mark.parametrize(
    ("name", "dtype", "computed"),
    [
        ("up.weight_packed", "I32", "up.weight"),
        ("weight_packed", "I32", "weight"),
        ("up.weight_scale", "BF16", "up.weight_scale"),
        ("experts.down_proj_blocks", "U8", "experts.down_proj"),
        ("experts.down_proj_blocks", "F32", "experts.down_proj_blocks"),
        ("experts.down_proj_scales", "U8", "experts.down_proj_scales"),
        ("up.weight", "F8_E4M3", "up.weight"),
        ("up.qweight", "I32", "up.weight"),
        ("up.qzeros", "I32", "up.qzeros"),
        ("up.weight", "BF16", "up.weight"),
    ],
)
def test_what_a_model_computes_with(name: str, dtype: str, computed: str) -> None:
    assert computed_name(name, dtype) == computed
