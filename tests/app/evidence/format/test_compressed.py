"""Forms of compressed-tensors by their configuration: which are read, and what is wrong with the others."""

from typing import Any

import pytest

from app.evidence.format.compressed import CompressedFormError, hole, kind_of
from app.evidence.format.quantised import QuantisationError, is_scale, quantisation_of, quantised_weights

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": False}


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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": {"type": "float", "num_bits": 8}}, "float of 8 bits"),
        ({"weights": {"num_bits": 2}}, "int of 2 bits"),
        ({"weights": {"strategy": "block"}}, "by block"),
        ({"weights": {"symmetric": False}}, "zero points"),
        ({"weights": {"actorder": "group"}}, "actorder"),
        ({"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        ({"group": {"format": "float-quantized"}}, "float-quantized"),
        ({"group": {"input_activations": {"num_bits": 8}}}, "input_activations"),
        ({"group": {"targets": ["re:.*q_proj"]}}, "targets"),
        ({"group": {"weights": None}}, "nothing of weights"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"transform_config": {"config_groups": {"a": {}}}}, "transform_config"),
        ({"quantization_status": "frozen"}, "'frozen'"),
        ({"config_groups": {}}, "one group"),
        ({"config_groups": [1]}, "one group"),
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
