"""Codes and scales of a quantised weight follow one rule: they can be frozen, and nothing else."""

from typing import Any

import pytest

from app.errors import PolicyError
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.quantised import is_quantised, packed, weight_beside, weights_beside
from app.freeze.tensors import TensorInfo

UP = ("Toy", "Linear4bit")
TENSORS = [
    TensorInfo("up.weight", (32, 1), "U8", module_types=UP, unpacked=(8, 8)),
    TensorInfo("up.bias", (8,), "F32", module_types=UP),
    TensorInfo("up.weight.absmax", (1,), "F32", kind="buffer", module_types=UP),
    TensorInfo("down.weight", (8, 8), "I8", module_types=("Toy", "Linear8bitLt")),
    TensorInfo("down.SCB", (8,), "F32", kind="buffer", module_types=("Toy", "Linear8bitLt")),
    TensorInfo("gate.weight", (8, 8), "BF16", module_types=("Toy", "DecodedLinear")),
    TensorInfo("gate.weight_scale_inv", (1, 1), "F32", kind="buffer", module_types=("Toy", "DecodedLinear")),
    TensorInfo("experts.gate_up_proj", (2, 8, 8), "BF16", module_types=("Toy", "DecodedExperts")),
    TensorInfo("experts.down_proj", (2, 8, 8), "BF16", module_types=("Toy", "DecodedExperts")),
    TensorInfo("experts.down_proj_scales", (2, 8, 1), "U8", kind="buffer", module_types=("Toy", "DecodedExperts")),
    TensorInfo(
        "experts.1.up_proj.weight_scale_inv", (1, 1), "F32", kind="buffer", module_types=("Toy", "DecodedExperts")
    ),
    TensorInfo("head.weight", (2, 8), "F32", module_types=("Toy", "Linear")),
]


def test_which_tensors_are_quantised() -> None:
    """All of the layer but its bias; the shape of the weight goes through JSON."""
    assert [info.name for info in TENSORS if not is_quantised(info)] == ["up.bias", "head.weight"]
    assert TensorInfo.from_json(TENSORS[0].to_json()) == TENSORS[0]
    assert (
        weight_beside("a.up.weight.quant_state.x") == "a.up.weight" and weight_beside("a.down.SCB") == "a.down.weight"
    )
    assert weights_beside("a.down.SCB") == ("a.down.weight",)
    assert weights_beside("a.down_proj_scales") == ("a.weight", "a.down_proj")
    assert weights_beside("a.3.up_proj.weight_scale_inv") == ("a.3.up_proj.weight", "a.down_proj")


@pytest.mark.parametrize("buffers", ["pin", "track"])
def test_scales_follow_their_codes(buffers: str) -> None:
    """Also where the bias beside them trains, and where other buffers may move: a scale is a part of its weight."""
    frozen = ["up.weight", "down.weight", "gate.weight", "experts.*"]
    policy = Policy.from_json({"default": "train", "buffers": buffers, "rules": [
        {"action": "freeze", "select": {"name": frozen}}]})  # fmt: skip
    plan = resolve(policy, TENSORS)
    assert {each.name for each in plan.frozen} == {each.name for each in TENSORS if is_quantised(each)}


@pytest.mark.parametrize(
    ("policy", "param", "names"),
    [
        ({"train": ["up.**"]}, "freeze_policy.train", "'up.weight' and 1 more"),
        ({"freeze": ["up.**"]}, "freeze_policy", "'down.weight' and 7 more"),
        (
            {"default": "freeze", "rules": [
                {"action": "train", "select": {"name": "head.weight"}},
                {"action": "train", "select": {"name": "down.weight", "rows": [[0, 2]]}}]},
            "freeze_policy.rules[1]", "'down.weight' and 1 more",
        ),
    ],
)  # fmt: skip
def test_a_policy_that_trains_them_is_refused(policy: dict[str, Any], param: str, names: str) -> None:
    """By the rule, or the default, and with the names; an audit only declares."""
    with pytest.raises(PolicyError) as refused:
        resolve(Policy.from_json(policy), TENSORS)
    assert (refused.value.code, refused.value.param) == ("quantised_weights_train", param)
    assert names in refused.value.message
    resolve(Policy.from_json({**Policy.from_json(policy).to_json(), "enforce": False}), TENSORS)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_sizes_of_a_model_that_is_quantised_at_loading(kind: str) -> None:
    """Linear layers of blocks take about 4.5 bits a weight, or 8; heads, norms and embeddings stay as they are."""
    block = ("Toy", "ModuleList", "Block", "Linear")
    plain = [
        TensorInfo("layers.0.up.weight", (128, 64), "BF16", module_types=block),
        TensorInfo("layers.0.up.bias", (128,), "BF16", module_types=block),
        TensorInfo("head.weight", (2, 64), "BF16", module_types=("Toy", "Linear")),
    ]
    made = {info.name: info for info in packed(plain, kind)}
    codes = made["layers.0.up.weight"]
    assert (codes.unpacked or codes.shape) == (128, 64) and is_quantised(codes)
    size = sum(info.nbytes for info in made.values() if is_quantised(info))
    assert 8 * size / (128 * 64) == pytest.approx(4.5 if kind == "nf4" else 8, rel=0.1)
    assert made["head.weight"] == plain[2] and made["layers.0.up.bias"] == plain[1]
