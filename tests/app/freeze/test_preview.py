"""What a preview says of a policy before anything trains."""

import pytest

from app.errors import InvalidRequest, PolicyError
from app.freeze.plan import TensorInfo
from app.freeze.preview import preview


def test_counts_rows_and_digest(bert):
    """The plan's counts, one row per tensor in order of name, and the digest that the statement will carry."""
    found = preview({"freeze": ["bert.**"]}, bert)
    summary = found.to_json()
    assert summary["freeze_plan"] == found.plan.counts()
    assert summary["policy_digest"] == found.plan.policy.digest()
    assert summary["tensors"] == len(bert) == len(found.rows)
    assert [row["name"] for row in found.rows] == sorted(tensor.name for tensor in bert)
    assert found.rows[-1]["action"] == "train"


@pytest.mark.parametrize(
    ("optimizer", "per_matrix", "per_vector"),
    [
        ("sgd", 0, 0),
        ("adamw", 2 * 24, 2 * 6),
        ("adam", 2 * 24, 2 * 6),
        ("muon", 24, 12),
        ("adafactor", 4 + 6, 6),
        ("lbfgs", 4800, 1200),
    ],
)
def test_memory_saved_follows_its_formula(optimizer, per_matrix, per_vector):
    """Gradients and optimizer state of the frozen elements, in the parameter's own dtype, in fp32 for a bf16 one."""
    tensors = [TensorInfo("m", (4, 6), "F32"), TensorInfo("v", (6,), "BF16"), TensorInfo("w", (6,), "F32")]
    memory = preview({"freeze": ["m", "v"]}, tensors, optimizer=optimizer).memory
    assert memory["gradient_bytes_saved"] == 24 * 4 + 6 * 4
    assert memory["gradient_bytes"] == 6 * 4
    assert memory["optimizer_bytes_saved"] == per_matrix * 4 + per_vector * 4
    assert memory["optimizer_bytes"] == per_vector * 4


def test_half_precision_weights_that_train_have_fp32_copies():
    """In fp32: gradient, optimizer state and master copy; without copies everything is in the parameter's dtype."""
    tensors = [TensorInfo("m", (4, 6), "BF16"), TensorInfo("v", (6,), "F32")]
    memory = preview({"freeze": ["v"]}, tensors).memory
    assert (memory["gradient_bytes"], memory["optimizer_bytes"], memory["master_weight_bytes"]) == (96, 192, 96)
    memory = preview({"freeze": ["v"]}, tensors, master_weights=False).memory
    assert (memory["gradient_bytes"], memory["optimizer_bytes"], memory["master_weight_bytes"]) == (48, 96, 0)
    assert preview({"freeze": ["m"]}, tensors).memory["master_weight_bytes"] == 0


def test_a_split_saves_its_frozen_rows():
    """Only the trainable slice has a gradient."""
    tensors = [TensorInfo("e", (100, 4), "F32"), TensorInfo("w", (1,), "F32")]
    policy = {"rules": [{"action": "freeze", "select": {"name": "e", "rows": [[0, 90]]}}]}
    assert preview(policy, tensors).memory["gradient_bytes_saved"] == 90 * 4 * 4


def test_schedules_and_audits_save_nothing(bert):
    """What trains at some time needs its gradient and state at that time."""
    rule = {"action": "freeze", "select": {"module": "bert"}}
    scheduled = {"rules": [rule | {"when": [{"to_step": 5}]}]}
    assert preview(scheduled, bert).memory["gradient_bytes_saved"] == 0
    assert preview({"rules": [rule], "enforce": False}, bert).memory["optimizer_bytes_saved"] == 0


def warned(policy, tensors, word, **rest):
    return [warning for warning in preview(policy, tensors, **rest).warnings if word in warning]


def test_warns_of_pinned_batchnorm(convnet):
    """A pinned BatchNorm normalises by other statistics than a training one: worth knowing."""
    (warning,) = warned({"freeze": ["backbone.**"]}, convnet, "eval mode")
    assert "BatchNorm2d ('backbone.0.norm', 'backbone.1.norm')" in warning


@pytest.mark.parametrize(
    "policy", [{"freeze": ["backbone.**"], "buffers": "track"}, {"freeze": ["backbone.*.norm.weight"]}]
)
def test_warns_of_statistics_that_move(convnet, policy):
    """Frozen parameters beside moving statistics are the commonest leak of all."""
    assert warned(policy, convnet, "statistics move")


def test_says_nothing_of_a_batchnorm_that_trains(convnet):
    """Training it whole is what it is for."""
    assert not warned({"freeze": ["head.**"]}, convnet, "BatchNorm")


def test_warns_of_random_heads(bert):
    """Tensors that the files do not hold start at random, and freezing them is hardly meant."""
    new = {"classifier.weight", "classifier.bias"}
    assert warned({"freeze": ["bert.**"]}, bert, "initialised at random", initialised=new)
    assert not warned({"freeze": ["bert.**"]}, bert, "frozen at random", initialised=new)
    assert warned({"train": ["bert.**"]}, bert, "frozen at random values: 'classifier.bias'", initialised=new)


def test_warns_of_lbfgs(bert):
    """It writes to tensors without a gradient; harmless only when nothing is frozen."""
    assert warned({"freeze": ["bert.**"]}, bert, "LBFGS", optimizer="lbfgs")
    assert not warned({}, bert, "LBFGS", optimizer="lbfgs")


def test_warns_when_everything_trains(bert):
    """A policy without a frozen tensor leaves the evidence nothing to claim."""
    assert warned({}, bert, "everything trains")


def test_warns_of_schedules_and_tracked_buffers(convnet):
    """Both are weaker claims than a reader of the word frozen expects."""
    rule = {"action": "freeze", "select": {"module": "backbone.0.conv"}, "when": [{"to_step": 5}]}
    assert warned({"rules": [rule]}, convnet, "some steps only")
    assert warned({"freeze": ["backbone.**"], "buffers": "track"}, convnet, "lets 6 buffers move")


def test_refusals_are_those_of_the_plan(bert):
    """A preview refuses what a job would refuse, in the same words."""
    with pytest.raises(PolicyError, match=r"nearest: 'bert\.encoder"):
        preview({"freeze": ["bert.encodr.**"]}, bert)
    with pytest.raises(InvalidRequest, match="there are adamw") as caught:
        preview({}, bert, optimizer="adamx")
    assert caught.value.param == "optimizer"
