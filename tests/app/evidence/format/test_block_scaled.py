"""Which forms of small floats with block scales are read, and whether the stored tensors are all of them."""

from typing import Any

import pytest

from app.evidence.format.block_scaled import (
    AWQ,
    FLOAT8,
    FP8,
    GPTQ,
    MXFP4,
    MXFP4_PACKED,
    NVFP4_PACKED,
    BlockForm,
    BlockFormError,
    Decoding,
    beside,
    codes_of,
    fitting,
    form_of,
    hole,
    is_codes,
    not_frozen,
    plain_of,
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
    minimax = {**QWEN, "fmt": "float8_e4m3fn", "modules_to_not_convert": ["gate", "e_score_correction_bias"]}
    assert form_of(minimax).block == (128, 128)
    mistral = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None, "dequantize": False}
    assert form_of(mistral).block == (None, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation_scheme": "token"}, "activation_scheme is 'token', which is not read"),
        ({"fmt": "e5m2"}, "fmt is 'e5m2'"),
        ({"scale_fmt": "e8"}, "scale_fmt is 'e8'"),
        ({"expert_dtype": "fp4"}, "expert_dtype is 'fp4'"),
        ({"dequantize": True}, "dequantize is True"),
        ({"modules_to_convert": ["embed"]}, "modules_to_convert is ['embed']"),
        ({"weight_block_size": []}, "weight_block_size is []"),
        ({"weight_block_size": [128]}, "rows and columns of a block"),
        ({"weight_block_size": [0, 128]}, "rows and columns of a block"),
        ({"weight_block_size": [True, 128]}, "rows and columns of a block"),
        ({"weight_block_size": "128"}, "rows and columns of a block"),
        ({"kv_cache_scheme": 1}, "unknown key 'kv_cache_scheme'"),
        ({"ignored_layers": ["lm_head"], "kv_cache_scheme": "static"}, "AutoFP8, whose scales transformers does not"),
    ],
)
def test_forms_that_are_not_read_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BlockFormError) as refused:
        form_of({**QWEN, **changes})
    assert says in str(refused.value)


def test_codes_and_scales_by_name() -> None:
    """A norm in float8 is no codes, and a weight in 16 bits is none."""
    assert [name for name in WHOLE if is_codes(name, WHOLE)] == ["up.weight"]
    assert beside("up.weight", WHOLE) == beside("up.weight", WHOLE, FP8) == ("up.weight_scale_inv",)
    assert is_codes("weight", {"weight": "F8_E4M3"}) and beside("weight", ["weight_scale_inv"]) == ("weight_scale_inv",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"down.weight": "BF16"}, None),
        ({"up.weight_scale": "BF16"}, "'up.weight_scale' is stored beside 'up.weight', and codes of fp8 have no such"),
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
    assert beside("e.down_proj_blocks", OSS) == ("e.down_proj_scales",)
    assert plain_of("e.down_proj_blocks") == "e.down_proj" and codes_of("e.down_proj") == ("e.down_proj_blocks",)
    assert plain_of("e.weight") == "e.weight" and codes_of("e.bias") == ()
    assert set(codes_of("e.weight")) == {"e.qweight", "e.weight_packed"} == {*codes_of("e.weight")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"e.down_proj_scales": None}, "without e.down_proj_scales"),
        ({"e.down_proj_scales": "BF16"}, "scales of mxfp4 are U8"),
        ({"e.down_proj_blocks": None}, "the weight 'e.down_proj_blocks' is not, as U8"),
        ({"e.down_proj_blocks": "I8"}, "the weight 'e.down_proj_blocks' is not, as U8"),
        ({"up.weight": "F8_E4M3"}, "'up.weight' is stored as codes of another form than mxfp4"),
        (dict.fromkeys(OSS), "in mxfp4, and none is stored so"),
    ],
)
def test_what_is_missing_of_experts_is_said(changes: dict[str, str | None], says: str | None) -> None:
    stored = {name: code for name, code in {**OSS, **changes}.items() if code is not None}
    problem = hole(stored, MXFP4)
    assert (problem is None) if says is None else (problem is not None and says in problem)


#: A weight of each other form.
PARTS = {
    FLOAT8: {"up.weight": "F8_E4M3", "up.weight_scale": "BF16", "up.input_scale": "F32"},
    NVFP4_PACKED: {"up.weight_packed": "U8", "up.weight_scale": "F8_E4M3", "up.weight_global_scale": "F32"},
    MXFP4_PACKED: {"up.weight_packed": "U8", "up.weight_scale": "U8"},
    GPTQ: {"up.qweight": "I32", "up.qzeros": "I32", "up.scales": "F16", "up.g_idx": "I32"},
    AWQ: {"up.qweight": "I32", "up.qzeros": "I32", "up.scales": "F16"},
}


@pytest.mark.parametrize("form", PARTS)
def test_other_forms_are_whole_or_what_is_missing_is_said(form: str) -> None:
    """Each part that a weight is decoded by, in its dtype; an input's scale may be left out."""
    whole = PARTS[form]
    codes, *others = whole
    assert hole(whole, form) is None and is_codes(codes, whole) and plain_of(codes) == "up.weight"
    assert set(beside(codes, whole, form)) == {*others}
    for name in others:
        left = {each: code for each, code in whole.items() if each != name}
        problem = hole(left, form)
        assert (problem is None) if name == "up.input_scale" else (f"without {name}" in str(problem))
        assert f"{name!r} is stored as F64" in str(hole({**whole, name: "F64"}, form))
    assert "codes of another form than" in str(hole({**whole, "e.down_proj_blocks": "U8"}, form))
    assert "is not, as" in str(hole({name: whole[name] for name in others}, form)) or whole[others[0]] == "F8_E4M3"


@pytest.mark.parametrize("form", PARTS)
def test_all_that_is_beside_codes_has_to_be_frozen(form: str) -> None:
    """Whatever is stored there, as a form is told by a configuration alone."""
    codes, *others = PARTS[form]
    dtype = PARTS[form][codes]
    assert not_frozen(codes, dtype, PARTS[form], PARTS[form]) is None
    for name in others:
        assert not_frozen(codes, dtype, PARTS[form], {*PARTS[form]} - {name}) == name
    assert not_frozen(codes, dtype, {codes}, {codes}) is not None


def test_weights_of_one_base_may_be_stored_in_several_forms() -> None:
    """Each is whole in one of them, which its parts tell; what neither has is named."""
    head = {"head.weight": "F8_E4M3", "head.weight_scale": "BF16"}
    dense = {"up.weight_packed": "U8", "up.weight_scale": "F8_E4M3", "up.weight_global_scale": "F32"}
    small = {"down.weight_packed": "U8", "down.weight_scale": "U8"}
    whole, forms = head | dense | small, (FLOAT8, NVFP4_PACKED, MXFP4_PACKED)
    assert hole(whole, *forms) is None
    ways = [Decoding(form) for form in forms]
    codes = ("head.weight", "up.weight_packed", "down.weight_packed")
    assert [fitting(name, whole, ways) for name in codes] == [(way,) for way in ways]
    assert "another form than float-quantized, which" in str(hole(whole, FLOAT8))
    lacking = {name: kind for name, kind in whole.items() if name != "up.weight_global_scale"}
    assert "'up.weight_packed' is stored without up.weight_global_scale" in str(hole(lacking, *forms))
