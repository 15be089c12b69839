"""Resolving policies over real-looking manifests: what is decided, and every refusal."""

import json

import pytest

from app.freeze.plan import FreezePlan, TensorInfo
from tests.app.freeze.plans import freeze, frozen_names, names, plan_of, refused


def test_the_example_of_the_design(bert):
    """Layers, rows and embeddings in three rules: each tensor is decided by the first that matches."""
    policy = {
        "default": "train",
        "rules": [
            {
                "id": "encoder",
                "action": "freeze",
                "mechanism": "requires_grad",
                "select": {"layers": {"path": "bert.encoder.layer", "first": 4}},
                "expect": {"tensors": 64},
            },
            {
                "id": "new-tokens",
                "action": "train",
                "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[30522, 30530]]},
            },
            {
                "id": "embeddings",
                "action": "freeze",
                "mechanism": "detach",
                "select": {"name": "bert.embeddings.**"},
            },
        ],
        "buffers": "pin",
        "on_violation": "abort",
    }
    plan = plan_of(policy, bert)
    words = plan.decision("bert.embeddings.word_embeddings.weight")
    assert (words.action, words.rule, words.mechanism) == ("split", "new-tokens", "detach")
    assert words.frozen_rows == ((0, 30522),)
    assert words.trainable_rows == ((30522, 30530),)
    assert plan.decision("bert.encoder.layer.3.output.dense.weight").rule == "encoder"
    assert plan.decision("bert.encoder.layer.4.output.dense.weight").action == "train"
    assert plan.decision("bert.embeddings.LayerNorm.bias").mechanism == "detach"
    assert plan.decision("bert.embeddings.position_ids").action == "freeze"
    assert plan.counts()["frozen"]["tensors"] == 64 + 3
    assert plan.counts()["frozen"]["elements"] == 4 * sum(
        tensor.elements for tensor in bert if ".layer.0." in tensor.name
    ) + 8 * (30522 + 512 + 2)


@pytest.mark.parametrize("mechanism", ["requires_grad", "detach", "param_group"])
def test_the_default_freezes_by_the_policys_mechanism(bert, mechanism):
    """The train shorthand freezes the rest, and every frozen parameter says how."""
    plan = plan_of({"train": ["classifier.**"], "mechanism": mechanism}, bert)
    assert {d.mechanism for d in plan.frozen if d.kind == "parameter"} == {mechanism}
    assert {d.rule for d in plan.frozen} == {"default"}
    assert {d.name for d in plan.trainable} == {"classifier.weight", "classifier.bias"}


def test_frozen_modules_have_their_buffers_pinned(convnet):
    """A rule that freezes a backbone freezes its BatchNorm statistics, and buffers have no mechanism."""
    plan = plan_of({"freeze": ["backbone.**"]}, convnet)
    assert {d.name for d in plan.frozen if d.kind == "buffer"} == names(convnet, "running", "num_batches")
    assert {d.mechanism for d in plan.frozen if d.kind == "buffer"} == {None}


def test_a_buffer_that_no_rule_names_follows_its_module(convnet):
    """Naming only the parameters of a BatchNorm still freezes its statistics; half of them does not."""
    plan = plan_of({"freeze": ["backbone.0.norm.weight", "backbone.0.norm.bias", "backbone.1.norm.weight"]}, convnet)
    assert plan.decision("backbone.0.norm.running_mean").action == "freeze"
    assert plan.decision("backbone.0.norm.running_mean").rule == "rule-1"
    assert plan.decision("backbone.1.norm.running_mean").action == "train"


def test_a_module_without_parameters_goes_with_the_one_around_it():
    """Rotary frequencies belong to nothing that trains: the module around them decides."""
    tensors = [
        TensorInfo("model.rotary.inv_freq", (4,), "F32", "buffer", persistent=False),
        TensorInfo("model.w", (4,), "F32"),
        TensorInfo("head.w", (4,), "F32"),
    ]
    assert plan_of({"freeze": ["model.w"]}, tensors).decision("model.rotary.inv_freq").action == "freeze"
    assert plan_of({"freeze": ["head.w"]}, tensors).decision("model.rotary.inv_freq").action == "train"
    assert plan_of({"train": ["model.w"]}, tensors).decision("model.rotary.inv_freq").action == "freeze"


def test_a_trained_batchnorm_keeps_counting(convnet):
    """Where the parameters of a module train, its buffers may move, and are tracked."""
    plan = plan_of({"train": ["head.**", "backbone.1.norm.*"]}, convnet)
    assert {d.name for d in plan.tracked} == {n for n in names(convnet, "running", "num_batches") if ".1." in n}


def test_track_leaves_buffers_alone(convnet):
    """Under `track` a name glob decides parameters only, and a rule for buffers still decides buffers."""
    assert not any(d.kind == "buffer" for d in plan_of({"freeze": ["backbone.**"], "buffers": "track"}, convnet).frozen)
    policy = freeze({"module": "backbone.0", "kind": "buffer"}) | {"buffers": "track"}
    assert frozen_names(policy, convnet) == {n for n in names(convnet, "running", "num_batches") if ".0." in n}


def test_track_refuses_a_rule_about_buffers_that_does_not_say_so(convnet):
    """Otherwise the rule would silently mean nothing."""
    error = refused(freeze({"name": "**.running_mean"}) | {"buffers": "track"}, convnet)
    assert '"kind": "buffer"' in error.message


def test_unsaved_buffers_are_decided_but_not_counted(bert):
    """`expect` and the counts are about tensors that a file holds."""
    plan = plan_of(freeze({"module": "bert.embeddings"}, expect={"tensors": 4}), bert)
    assert plan.decision("bert.embeddings.position_ids").action == "freeze"
    assert plan.counts()["frozen"]["tensors"] == 4


def test_a_schedule_is_a_claim_of_its_own(bert):
    """Frozen for some steps is neither frozen for the whole run nor plainly trainable."""
    select = {"layers": {"path": "bert.encoder.layer", "first": 1}}
    plan = plan_of(freeze(select, when=[{"to_step": 10}, {"from_step": 20, "to_step": None}]), bert)
    assert {d.name for d in plan.scheduled} == names(bert, ".layer.0.")
    assert {d.intervals for d in plan.scheduled} == {((0, 10), (20, None))}
    assert not plan.frozen
    assert plan.counts()["trainable"]["tensors"] == len(bert) - 1


def test_a_model_that_trains_only_later_is_allowed(bert):
    """Everything frozen for a while leaves something to train."""
    assert plan_of(freeze({"name": "**"}, when=[{"to_step": 10}]), bert).scheduled


def test_a_model_without_parameters_has_nothing_to_train():
    """Buffers alone cannot be trained."""
    assert "no parameters" in refused({}, [TensorInfo("b", (2,), "F32", "buffer")]).message


def test_an_audit_may_declare_everything_frozen(bert):
    """Nothing is enforced, so everything still trains; the plan warns that it is an audit."""
    plan = plan_of({"freeze": ["**"], "enforce": False}, bert)
    assert len(plan.frozen) == len(bert)
    assert any("audit" in warning for warning in plan.warnings)


def test_a_policy_that_freezes_nothing_warns(bert):
    """It is allowed, and the evidence will be empty."""
    assert any("everything trains" in warning for warning in plan_of({}, bert).warnings)


def test_the_parts_of_a_plan_are_a_partition(convnet):
    """Frozen, scheduled, split, trainable and tracked: every tensor is in exactly one."""
    rules = [
        {"action": "train", "select": {"name": "head.weight", "rows": [[0, 1]]}},
        {"action": "freeze", "select": {"name": "head.weight"}},
        {"action": "freeze", "select": {"module": "backbone.0.conv"}, "when": [{"to_step": 5}]},
        {"action": "freeze", "select": {"module": "backbone.1.norm"}},
    ]
    plan = plan_of({"rules": rules}, convnet)
    parts = [plan.frozen, plan.scheduled, plan.split, plan.trainable, plan.tracked]
    assert all(parts)
    assert sorted(d.name for part in parts for d in part) == [d.name for d in plan.decisions]


def test_a_plan_survives_json(convnet):
    """The trainer reads the same plan that the API resolved."""
    rules = [
        {"action": "train", "select": {"name": "head.weight", "rows": [[0, 1]]}},
        {"action": "freeze", "select": {"name": "head.weight"}},
        {"action": "freeze", "select": {"module": "backbone.0.conv"}, "when": [{"to_step": 5}]},
    ]
    plan = plan_of({"rules": rules}, convnet)
    assert FreezePlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_decisions_sort_by_utf8_name():
    """The order of evidence rows, also beyond ASCII."""
    tensors = [TensorInfo(name, (1,), "F32") for name in ("é", "z", "a.b", "a-b", "𝒜", "ﬀ")]
    found = [decision.name for decision in plan_of({}, tensors).decisions]
    assert found == sorted(found, key=str.encode)
