"""Forms of compressed-tensors by their configuration: which are read, and what is wrong with the others."""

from typing import Any

import pytest

from app.evidence.format.block_scaled import Decoding
from app.evidence.format.compressed import CompressedFormError, hole, kind_of
from app.evidence.format.quantised import QuantisationError, is_scale, quantisation_of, quantised_weights

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": False}

FLOAT8 = {"type": "float", "num_bits": 8, "strategy": "channel", "group_size": None}
FLOAT4 = {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16}
NVFP4 = Decoding("nvfp4-pack-quantized", bits=4)


def config(
    *, weights: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """As the package writes it."""
    one: dict[str, Any] = {"targets": ["Linear"], "input_activations": None, "output_activations": None}
    one |= {"weights": WEIGHTS | (weights or {})} | (group or {})
    value: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    value |= {"config_groups": {"group_0": one}, "ignore": ["lm_head"], "kv_cache_scheme": None}
    return value | {"quantization_status": "compressed", "sparsity_config": {}, "version": "0.20.1"} | more


def test_what_is_read() -> None:
    """Whole numbers of 4 or 8 bits, each weight or each group of them by one scale."""
    assert kind_of(config()) == "int4"
    assert kind_of(config(weights={"num_bits": 8, "strategy": "channel"})) == "int8"
    found = quantisation_of({"quantization_config": config()})
    assert found is not None and (found.method, found.kind) == ("compressed-tensors", "int4")


def test_small_floats_are_decoded() -> None:
    """By the scales of the weight, its rows or blocks, or of groups; inputs may be rounded where they are served."""
    rounded = {"input_activations": {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}}
    for strategy, block in {"tensor": (None, None), "channel": (1, None)}.items():
        found = kind_of(config(format="float-quantized", weights={**FLOAT8, "strategy": strategy}, group=rounded))
        assert found == (Decoding("float-quantized", block, rounds_inputs=True),)
    blocks = {**FLOAT8, "strategy": "block", "block_structure": [128, 128]}
    assert kind_of(config(format="float-quantized", weights=blocks)) == (Decoding("float-quantized", (128, 128)),)
    assert kind_of(config(format="nvfp4-pack-quantized", weights=FLOAT4)) == (NVFP4,)
    mx = {**FLOAT4, "strategy": "group", "group_size": 32}
    assert kind_of(config(format="mxfp4-pack-quantized", weights=mx)) == (Decoding("mxfp4-pack-quantized", bits=4),)
    old = config(format="float-quantized", weights={**FLOAT8, "strategy": "channel"}, quantization_status="frozen")
    base = quantisation_of({"quantization_config": old})
    assert base is not None and base.decoded and (base.kind, base.skipped) == ("float-quantized", ("lm_head",))


def groups(*found: dict[str, Any]) -> dict[str, Any]:
    """Several groups of modules in one configuration."""
    return config(format="mixed-precision", config_groups={f"group_{at}": each for at, each in enumerate(found)})


def test_groups_of_modules_may_have_forms_of_their_own() -> None:
    """As NVFP4 is published with attention in FP8: a format for each group, by names or patterns of modules."""
    attention: dict[str, Any] = {"targets": ["re:.*self_attn.*", "lm_head"], "format": "float-quantized"}
    attention |= {"weights": FLOAT8, "input_activations": {"num_bits": 8, "type": "float", "dynamic": True}}
    dense = {"targets": ["re:.*mlp.(gate|up|down)_proj$"], "format": "nvfp4-pack-quantized", "weights": FLOAT4}
    cached = groups(attention, dense) | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}  # decoding has no cache
    assert kind_of(cached) == kind_of(groups(attention, dense))
    whole = Decoding("float-quantized", (1, None), rounds_inputs=True)
    assert kind_of(groups(attention, dense, dense | {"targets": ["Linear"]})) == (whole, NVFP4)
    found = quantisation_of({"quantization_config": groups(attention, dense)})
    assert found is not None and found.forms == ("float-quantized", "nvfp4-pack-quantized")
    assert found.kind == "float-quantized and nvfp4-pack-quantized"


def test_packed_whole_numbers_are_read_alone() -> None:
    """They are computed with as they are stored, which the others are not."""
    packed = {"targets": ["Linear"], "format": "pack-quantized", "weights": WEIGHTS}
    dense = {"targets": ["re:.*mlp.*"], "format": "nvfp4-pack-quantized", "weights": FLOAT4}
    with pytest.raises(CompressedFormError, match="one of several groups is pack-quantized"):
        kind_of(groups(dense, packed))
    with pytest.raises(CompressedFormError, match="one of several groups is pack-quantized"):
        kind_of(groups(packed, packed | {"weights": WEIGHTS | {"num_bits": 8}}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": {"type": "float", "num_bits": 8}}, "float of 8 bits"),
        ({"weights": {"num_bits": 2}}, "int of 2 bits"),
        ({"weights": {"strategy": "block"}}, "by block"),
        ({"weights": {"symmetric": False}}, "zero points"),
        ({"weights": {"actorder": "group"}}, "actorder"),
        ({"format": "int-quantized"}, "int-quantized"),
        ({"format": "nvfp4-pack-quantized"}, "those of nvfp4-pack-quantized are float of 4 bits"),
        ({"group": {"format": "float-quantized"}}, "those of float-quantized are float of 8 bits"),
        ({"format": "float-quantized", "weights": {**FLOAT8, "symmetric": False}}, "zero points"),
        ({"format": "float-quantized", "weights": {**FLOAT8, "strategy": "group"}}, "by 'group' of None"),
        ({"format": "float-quantized", "weights": {**FLOAT8, "strategy": "block"}}, "by 'block' of None"),
        ({"format": "float-quantized", "weights": FLOAT8, "group": {"output_activations": {}}}, "output_activations"),
        ({"format": "float-quantized", "weights": FLOAT8, "group": {"targets": []}}, "targets"),
        ({"format": "float-quantized", "weights": FLOAT8, "group": {"targets": "Linear"}}, "targets"),
        ({"format": "nvfp4-pack-quantized", "weights": {**FLOAT4, "group_size": 32}}, "by tensor_group of 32"),
        ({"group": {"input_activations": {"num_bits": 8}}}, "input_activations"),
        ({"group": {"targets": ["re:.*q_proj"]}}, "targets"),
        ({"group": {"weights": None}}, "nothing of weights"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is not read beside pack-quantized"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"transform_config": {"config_groups": {"a": {}}}}, "transform_config"),
        ({"quantization_status": "frozen"}, "'frozen'"),
        ({"config_groups": {}}, "at least one group"),
        ({"config_groups": [1]}, "at least one group"),
        ({"dequantize": True}, "unknown key 'dequantize'"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], named: str) -> None:
    """By what it is, with what would work; also through the one door for all quantisers."""
    with pytest.raises(CompressedFormError, match=named.replace(".", r"\.")):
        kind_of(config(**changes))
    with pytest.raises(QuantisationError, match="compressed-tensors"):
        quantisation_of({"quantization_config": config(**changes)})


def test_a_weight_has_all_of_its_parts() -> None:
    """The first that is missing is named; codes are packed into I32."""
    parts = {"a.weight_packed": "I32", "a.weight_scale": "BF16", "a.weight_shape": "I64", "b.weight": "BF16"}
    assert hole(parts) is None
    for name in ("a.weight_scale", "a.weight_shape"):
        assert name in str(hole({key: value for key, value in parts.items() if key != name}))
    assert "'a.weight_packed' is not" in str(hole({"a.weight_scale": "BF16"}))
    assert "none is stored so" in str(hole({"b.weight": "BF16"}))
    assert "stored as U8" in str(hole(parts | {"a.weight_packed": "U8"}))


def test_names_of_parts() -> None:
    """For every reader that asks which stored tensors are quantised weights."""
    assert quantised_weights({"a.weight_packed": "I32", "a.weight_scale": "BF16"}) == {"a.weight_packed"}
    assert is_scale("a.weight_scale") and is_scale("a.weight_shape") and not is_scale("a.weight")
