"""Which forms of small floats with block scales are read, and whether the stored tensors are all of them."""

from typing import Any

import pytest

from app.evidence.format.block_scaled import (
    FP8,
    MXFP4,
    BlockForm,
    BlockFormError,
    codes_of,
    form_of,
    hole,
    is_beside,
    is_codes,
    plain_of,
    scale_of,
)

#: As Qwen's and DeepSeek's configurations have it.
QWEN = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
WHOLE = {"up.weight": "F8_E4M3", "up.weight_scale_inv": "BF16", "up.bias": "BF16", "norm.weight": "BF16"}


def test_forms_that_are_read() -> None:
    """By the keys that are published, with and without those that say nothing more."""
    assert form_of(QWEN) == BlockForm((128, 128), None)
    deepseek = {**QWEN, "scale_fmt": "ue8m0", "modules_to_not_convert": ["lm_head"], "dequantize": False}
    assert form_of(deepseek) == BlockForm((128, 128), ["lm_head"])
    assert form_of({"quant_method": "fp8", "weight_block_size": [1, 32]}).block == (1, 32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation_scheme": "static"}, "activation_scheme is 'static', which is not read"),
        ({"fmt": "e5m2"}, "fmt is 'e5m2'"),
        ({"scale_fmt": "e8"}, "scale_fmt is 'e8'"),
        ({"expert_dtype": "fp4"}, "expert_dtype is 'fp4'"),
        ({"dequantize": True}, "dequantize is True"),
        ({"modules_to_convert": ["embed"]}, "modules_to_convert is ['embed']"),
        ({"weight_block_size": None}, "weight_block_size is None"),
        ({"weight_block_size": [128]}, "rows and columns of a block"),
        ({"weight_block_size": [0, 128]}, "rows and columns of a block"),
        ({"weight_block_size": [True, 128]}, "rows and columns of a block"),
        ({"weight_block_size": "128"}, "rows and columns of a block"),
        ({"kv_cache_scheme": 1}, "unknown key 'kv_cache_scheme'"),
    ],
)
def test_forms_that_are_not_read_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BlockFormError) as refused:
        form_of({**QWEN, **changes})
    assert says in str(refused.value)


def test_codes_and_scales_by_name() -> None:
    """A norm in float8 is no codes, and a weight in 16 bits is none."""
    assert [name for name in WHOLE if is_codes(name, WHOLE)] == ["up.weight"]
    assert [name for name in WHOLE if is_beside(name)] == [scale_of("up.weight")]
    assert is_codes("weight", {"weight": "F8_E4M3"}) and scale_of("weight") == "weight_scale_inv"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"down.weight": "BF16"}, None),
        ({"up.weight_scale_inv": None}, "without up.weight_scale_inv"),
        ({"up.weight_scale_inv": "F64"}, "scales of fp8 are F32 or BF16"),
        ({"up.weight": None}, "up.weight_scale_inv is stored, and the weight 'up.weight' is not"),
        ({"up.weight": "BF16"}, "up.weight_scale_inv is stored, and the weight 'up.weight' is not"),
        ({"up.weight": "F8_E5M2"}, "'up.weight' is stored as F8_E5M2"),
        ({"up.bias": "F8_E4M3"}, "'up.bias' is stored as F8_E4M3, and only codes of weights"),
        ({"up.weight": None, "up.weight_scale_inv": None}, "none is stored so"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, str | None], says: str | None) -> None:
    stored = {name: code for name, code in {**WHOLE, **changes}.items() if code is not None}
    problem = hole(stored, FP8)
    assert (problem is None) if says is None else (problem is not None and says in problem)


#: gpt-oss' experts.
OSS = {
    "e.gate_up_proj_blocks": "U8", "e.gate_up_proj_scales": "U8", "e.down_proj_bias": "BF16",
    "e.down_proj_blocks": "U8", "e.down_proj_scales": "U8",
}  # fmt: skip


def test_experts_of_4_bits() -> None:
    """Codes, scales and the weight are called after one another."""
    listed = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    assert form_of(listed) == BlockForm(None, ["lm_head"])
    with pytest.raises(BlockFormError, match="unknown key 'weight_block_size'"):
        form_of({**listed, "weight_block_size": [1, 32]})
    with pytest.raises(BlockFormError, match="dequantize is True"):
        form_of({**listed, "dequantize": True})
    assert [name for name in OSS if is_codes(name, OSS)] == ["e.gate_up_proj_blocks", "e.down_proj_blocks"]
    assert scale_of("e.down_proj_blocks") == "e.down_proj_scales" and is_beside("e.down_proj_scales")
    assert plain_of("e.down_proj_blocks") == "e.down_proj" and codes_of("e.down_proj") == ("e.down_proj_blocks",)
    assert plain_of("e.weight") == "e.weight" and codes_of("e.weight") == codes_of("e.bias") == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"e.down_proj_scales": None}, "without e.down_proj_scales"),
        ({"e.down_proj_scales": "BF16"}, "scales of mxfp4 are U8"),
        ({"e.down_proj_blocks": None}, "the weight 'e.down_proj_blocks' is not, as U8"),
        ({"e.down_proj_blocks": "I8"}, "the weight 'e.down_proj_blocks' is not, as U8"),
        ({"up.weight": "F8_E4M3"}, "'up.weight' is stored as F8_E4M3"),
        (dict.fromkeys(OSS), "in mxfp4, and none is stored so"),
    ],
)
def test_what_is_missing_of_experts_is_said(changes: dict[str, str | None], says: str | None) -> None:
    stored = {name: code for name, code in {**OSS, **changes}.items() if code is not None}
    problem = hole(stored, MXFP4)
    assert (problem is None) if says is None else (problem is not None and says in problem)
