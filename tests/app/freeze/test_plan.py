"""Resolving policies over real-looking manifests: what is decided, and every refusal."""

import json

import pytest

from app.errors import PolicyError
from app.freeze.plan import FreezePlan, TensorInfo, resolve
from app.freeze.policy import WHOLE_RUN, Policy


def plan_of(policy, tensors):
    return resolve(Policy.from_json(policy), tensors)


def refused(policy, tensors):
    with pytest.raises(PolicyError) as caught:
        plan_of(policy, tensors)
    return caught.value


def freeze(select, **parts):
    return {"rules": [{"id": "it", "action": "freeze", "select": select, **parts}]}


def frozen_names(policy, tensors):
    return {decision.name for decision in plan_of(policy, tensors).frozen}


def names(tensors, *parts):
    return {tensor.name for tensor in tensors if any(part in tensor.name for part in parts)}


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


# ---- selectors


@pytest.mark.parametrize(
    ("select", "parts"),
    [
        ({"name": "bert.encoder.layer.1.**"}, (".layer.1.",)),
        (
            {"name": ["classifier.weight", "bert.embeddings.*.weight"]},
            ("classifier.w", "dings.weight", "s.LayerNorm.w"),
        ),
        ({"name": "**.query.*"}, (".query.",)),
        ({"regex": r"bert\.encoder\.layer\.(1|3)\..*"}, (".layer.1.", ".layer.3.")),
        ({"module": "bert.encoder.layer.1"}, (".layer.1.",)),
        ({"module": "bert.encoder.layer.*.output"}, ("0.output", "1.output", *(f"{n}.output" for n in range(2, 10)))),
        ({"module_type": "LayerNorm"}, ("LayerNorm",)),
        ({"module_type": "Bert*Attention"}, (".self.", ".self.")),
        ({"module_type": "BertSelfAttention"}, (".self.",)),
        ({"layers": {"path": "bert.encoder.layer", "first": 2}}, (".layer.0.", ".layer.1.")),
        ({"layers": {"path": "bert.encoder.layer", "last": 2}}, (".layer.10.", ".layer.11.")),
        ({"layers": {"path": "bert.encoder.layer", "from": 1, "to": 3}}, (".layer.1.", ".layer.2.")),
        ({"layers": {"path": "bert.encoder.layer", "from": 10}}, (".layer.10.", ".layer.11.")),
        ({"layers": {"path": "bert.encoder.layer", "to": 1}}, (".layer.0.",)),
        ({"kind": "buffer"}, ("position_ids",)),
    ],
)
def test_each_selector_alone(bert, select, parts):
    """Every selector matches whole names, paths, types or numbers: layer 1 never catches layer 10."""
    assert frozen_names(freeze(select), bert) == names(bert, *parts)


def test_selectors_together_must_all_match(bert):
    """Two selectors in one rule are an intersection; several patterns in one selector are a union."""
    select = {"module_type": "LayerNorm", "layers": {"path": "bert.encoder.layer", "first": 1}, "name": "**.bias"}
    assert frozen_names(freeze(select), bert) == {
        "bert.encoder.layer.0.attention.output.LayerNorm.bias",
        "bert.encoder.layer.0.output.LayerNorm.bias",
    }


def test_a_dotted_module_type_is_compared_whole():
    """A plain class name finds the class in any package, a dotted one only its own."""
    tensors = [
        TensorInfo("a.w", (2,), "F32", module_types=("M", "torch.nn.modules.normalization.LayerNorm")),
        TensorInfo("b.w", (2,), "F32", module_types=("M", "mine.LayerNorm")),
        TensorInfo("c.w", (2,), "F32", module_types=("M", "Linear")),
    ]
    assert frozen_names(freeze({"module_type": "LayerNorm"}), tensors) == {"a.w", "b.w"}
    assert frozen_names(freeze({"module_type": "mine.LayerNorm"}), tensors) == {"b.w"}


def test_neighbours_in_the_alphabet_are_not_inside():
    """Names are found by a slice of a sorted list: what sorts just before or after a module is not in it."""
    inside = ["a.b", "a.z.w"]
    outside = ["a", "a-b", "a-b.w", "a/b", "a/b.w", "a0", "aa.w"]
    tensors = [TensorInfo(name, (1,), "F32") for name in inside + outside]
    assert frozen_names(freeze({"module": "a"}), tensors) == set(inside)
    assert frozen_names(freeze({"name": "a.**"}), tensors) == {"a", *inside}


def test_numbered_children_may_be_tensors_themselves():
    """A list of parameters has numbers for names; what only begins with the number is another child."""
    tensors = [TensorInfo(f"p.{child}", (1,), "F32") for child in ("1", "1-x", "1.w", "01x", "2", "10", "x")]
    assert frozen_names(freeze({"layers": {"path": "p", "first": 2}}), tensors) == {"p.1", "p.1.w", "p.2"}


def test_layers_counts_the_children_that_are_there(gpt):
    """`first` and `last` go by the numbers that the model has, in numeric order, with gaps."""
    select = {"layers": {"path": "transformer.h", "last": 2}}
    assert frozen_names(freeze(select), gpt) == {"transformer.h.1.mlp.weight", "transformer.h.10.mlp.weight"}


def test_first_match_wins(bert):
    """An exception stands above the rule that it is an exception from."""
    rules = [
        {"id": "norms", "action": "train", "select": {"module_type": "LayerNorm"}},
        {"id": "rest", "action": "freeze", "select": {"module": "bert"}},
    ]
    plan = plan_of({"rules": rules}, bert)
    assert {d.rule for d in plan.decisions if "LayerNorm" in d.name} == {"norms"}
    assert not any(d.action == "freeze" for d in plan.decisions if "LayerNorm" in d.name)


@pytest.mark.parametrize("mechanism", ["requires_grad", "detach", "param_group"])
def test_the_default_freezes_by_the_policys_mechanism(bert, mechanism):
    """The train shorthand freezes the rest, and every frozen parameter says how."""
    plan = plan_of({"train": ["classifier.**"], "mechanism": mechanism}, bert)
    assert {d.mechanism for d in plan.frozen if d.kind == "parameter"} == {mechanism}
    assert {d.rule for d in plan.frozen} == {"default"}
    assert {d.name for d in plan.trainable} == {"classifier.weight", "classifier.bias"}


# ---- buffers


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


# ---- ties


def test_a_tie_can_be_named_by_any_of_its_names(gpt):
    """Both names in one rule: one decision, found under either."""
    plan = plan_of({"freeze": ["lm_head.weight", "transformer.wte.**"]}, gpt)
    assert plan.decision("lm_head.weight") is plan.decision("transformer.wte.weight")
    assert plan.counts()["frozen"]["tensors"] == 1
    assert len(plan.decisions) == 4


@pytest.mark.parametrize(
    "policy",
    [
        {"freeze": ["transformer.wte.**"]},
        {"freeze": ["lm_head.**"]},
        {"train": ["lm_head.**"]},
        {
            "rules": [
                {"action": "freeze", "select": {"name": "transformer.wte.weight"}},
                {"action": "freeze", "mechanism": "detach", "select": {"name": "lm_head.weight"}},
            ]
        },
        {"rules": [{"action": "freeze", "select": {"name": "lm_head.weight", "rows": [[0, 50]]}}]},
        {
            "rules": [
                {"action": "freeze", "select": {"name": "lm_head.weight"}, "when": [{"to_step": 5}]},
                {"action": "freeze", "select": {"name": "transformer.wte.weight"}},
            ]
        },
    ],
)
def test_a_tie_with_two_decisions_is_refused(gpt, policy):
    """Frozen under one name and anything else under another, the default included, is an error that names both."""
    error = refused(policy, gpt)
    assert "'transformer.wte.weight' and 'lm_head.weight' are one tensor" in error.message
    assert error.param.startswith("freeze_policy.")


def test_two_rules_may_agree_about_a_tie(gpt):
    """The same decision by two rules is one decision, and neither rule is shadowed."""
    rules = [{"action": "freeze", "select": {"name": name}} for name in ("lm_head.weight", "transformer.wte.weight")]
    assert plan_of({"rules": rules}, gpt).decision("lm_head.weight").action == "freeze"


def test_a_module_type_speaks_for_every_name_of_a_tie(gpt):
    """The class around the other name is not in the manifest; the tensor is one all the same."""
    assert frozen_names(freeze({"module_type": "Embedding"}), gpt) == {"transformer.wte.weight"}


# ---- rows


def test_rows_go_to_their_rules_and_the_rest_goes_on():
    """Two rows rules and a rule below: every row is decided once."""
    tensors = [TensorInfo("e", (100, 4), "F32"), TensorInfo("w", (4,), "F32")]
    rules = [
        {"action": "train", "select": {"name": "e", "rows": [[90, 100], [10, 20]]}},
        {"action": "freeze", "mechanism": "detach", "select": {"name": "e", "rows": [[20, 30]]}},
        {"action": "freeze", "mechanism": "detach", "select": {"name": "e"}},
    ]
    decision = plan_of({"rules": rules}, tensors).decision("e")
    assert decision.frozen_rows == ((0, 10), (20, 90))
    assert decision.trainable_rows == ((10, 20), (90, 100))
    assert decision.frozen_elements == 80 * 4


def test_rows_that_cover_a_tensor_are_no_split():
    """All rows frozen is frozen; rows that train over a default that trains is trained."""
    tensors = [TensorInfo("e", (4, 4), "F32"), TensorInfo("w", (4,), "F32")]
    plan = plan_of(freeze({"name": "e", "rows": [[0, 4]]}), tensors)
    assert (plan.decision("e").action, plan.decision("e").intervals) == ("freeze", WHOLE_RUN)
    train = {"rules": [{"action": "train", "select": {"name": "e", "rows": [[0, 2]]}}]}
    assert plan_of(train, tensors).decision("e").action == "train"


def test_a_rule_below_rows_that_cover_everything_is_shadowed():
    """There is no rest to decide."""
    tensors = [TensorInfo("e", (4, 4), "F32"), TensorInfo("w", (4,), "F32")]
    policy = freeze({"name": "e", "rows": [[0, 4]]})
    policy["rules"].append({"id": "late", "action": "train", "select": {"name": "e"}})
    assert "decided by 'it'" in refused(policy, tensors).message


@pytest.mark.parametrize(
    ("select", "says"),
    [
        ({"name": "e", "rows": [[0, 101]]}, "which has 100 rows"),
        ({"name": "s", "rows": [[0, 1]]}, "is a scalar"),
        ({"name": "b", "rows": [[0, 1]]}, "is a buffer"),
        ({"name": "*", "rows": [[0, 3]]}, "is a buffer"),
    ],
)
def test_impossible_rows_are_refused(select, says):
    """Rows out of range, of a scalar, of a buffer: named with the tensor."""
    tensors = [
        TensorInfo("e", (100, 4), "F32"),
        TensorInfo("s", (), "F32"),
        TensorInfo("b", (4,), "F32", "buffer"),
    ]
    error = refused(freeze(select), tensors)
    assert says in error.message
    assert error.param == "freeze_policy.rules[0].select.rows"


def test_rows_of_two_rules_must_not_overlap():
    """A row that two rules claim is a mistake, not a matter of order."""
    tensors = [TensorInfo("e", (100, 4), "F32")]
    rules = [{"action": "freeze", "select": {"name": "e", "rows": rows}} for rows in ([[0, 10]], [[9, 20]])]
    error = refused({"rules": rules}, tensors)
    assert "overlap rows [0, 10] of rule 'rule-1'" in error.message
    assert error.param == "freeze_policy.rules[1].select.rows"


def test_frozen_rows_have_one_mechanism():
    """A tensor is split once."""
    tensors = [TensorInfo("e", (100, 4), "F32")]
    rules = [
        {"action": "freeze", "select": {"name": "e", "rows": [[0, 10]]}},
        {"action": "freeze", "mechanism": "detach", "select": {"name": "e", "rows": [[10, 20]]}},
    ]
    assert "two mechanisms" in refused({"rules": rules}, tensors).message


def test_the_rest_of_a_split_tensor_has_no_schedule():
    """Frozen rows of a tensor are claimed for the whole run."""
    tensors = [TensorInfo("e", (100, 4), "F32")]
    rules = [
        {"action": "train", "select": {"name": "e", "rows": [[0, 10]]}},
        {"action": "freeze", "select": {"name": "e"}, "when": [{"to_step": 10}]},
    ]
    assert "schedules the rest" in refused({"rules": rules}, tensors).message


# ---- schedules


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


# ---- refusals of whole rules


@pytest.mark.parametrize(
    ("policy", "param", "says"),
    [
        ({"freeze": ["bert.encodr.**"]}, "freeze_policy.freeze", "'bert.encoder.**'"),
        ({"freeze": ["encoder.layer.**"]}, "freeze_policy.freeze", "'bert.encoder.layer.**'"),
        ({"freeze": ["bert.**", "clasifier.**"]}, "freeze_policy.freeze[1]", "'classifier.**'"),
        ({"freeze": ["clasifier.weight"]}, "freeze_policy.freeze", "'classifier.weight'"),
        ({"freeze": ["bert"]}, "freeze_policy.freeze", "write 'bert.**'"),
        ({"freeze": ["bert.encoder.layer.[0-9].*"]}, "freeze_policy.freeze", "only '*' and '**' are wildcards"),
        (freeze({"regex": "encoder"}), "freeze_policy.rules[0].select.regex", "whole name"),
        (freeze({"module": "bert.encodr"}), "freeze_policy.rules[0].select.module", "'bert.encoder'"),
        (freeze({"module_type": "Layernorm"}), "freeze_policy.rules[0].select.module_type", "'LayerNorm'"),
        (
            freeze({"layers": {"path": "encoder.layer", "first": 1}}),
            "freeze_policy.rules[0].select.layers.path",
            "is no module; nearest: 'bert.encoder.layer'",
        ),
        (
            freeze({"layers": {"path": "bert.encoder", "first": 1}}),
            "freeze_policy.rules[0].select.layers.path",
            "has no numbered layers; nearest: 'bert.encoder.layer'",
        ),
        (
            freeze({"layers": {"path": "bert.encoder.layer", "first": 13}}),
            "freeze_policy.rules[0].select.layers.first",
            "has 12 layers, 0 to 11",
        ),
        (
            freeze({"layers": {"path": "bert.encoder.layer", "from": 6, "to": 13}}),
            "freeze_policy.rules[0].select.layers.to",
            "has 12 layers, 0 to 11",
        ),
        (
            freeze({"name": "classifier.*", "module_type": "LayerNorm"}),
            "freeze_policy.rules[0].select",
            "all of its selectors together",
        ),
        (
            freeze({"name": "classifier.*"}, expect={"tensors": 3}),
            "freeze_policy.rules[0].expect.tensors",
            "expects 3 tensors and decides 2",
        ),
        (
            freeze({"name": "classifier.*"}, expect={"tensors": 2, "elements": 35}),
            "freeze_policy.rules[0].expect.elements",
            "expects 35 elements and decides 36",
        ),
        ({"freeze": ["**"]}, "freeze_policy", "nothing is left to train"),
        ({"default": "freeze"}, "freeze_policy", "nothing is left to train"),
    ],
)
def test_a_rule_that_does_not_mean_what_it_says(bert, policy, param, says):
    """No match, a missed expectation, nothing left: the rule, the reason, and the nearest real names."""
    error = refused(policy, bert)
    assert error.param == param
    assert says in error.message


def test_a_kind_that_the_model_has_not(gpt):
    """A rule about buffers in a model without any matches nothing."""
    assert "the model has no buffer" in refused(freeze({"kind": "buffer"}), gpt).message


def test_a_shadowed_rule_names_what_shadows_it(bert):
    """Rules above took everything that it matches."""
    policy = freeze({"module": "bert.encoder"})
    policy["rules"] += [
        {"id": "words", "action": "freeze", "select": {"module": "bert.embeddings"}},
        {"id": "late", "action": "train", "select": {"name": "bert.**"}},
    ]
    error = refused(policy, bert)
    assert error.param == "freeze_policy.rules[2]"
    assert "'late' decides nothing" in error.message
    assert "'words' and 'it'" in error.message or "'it' and 'words'" in error.message


def test_an_expectation_says_what_went_to_rules_above(bert):
    """The count is of what the rule decides, and the message says why it is smaller than what it matches."""
    policy = freeze({"module_type": "LayerNorm"})
    policy["rules"].append(
        {
            "action": "freeze",
            "select": {"layers": {"path": "bert.encoder.layer", "first": 1}},
            "expect": {"tensors": 16},
        }
    )
    assert "decides 12 (4 of its 16 names went to rules above)" in refused(policy, bert).message


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


# ---- the plan itself


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


def test_a_tensor_survives_json(bert):
    """A manifest in a file is the manifest."""
    assert [TensorInfo.from_json(json.loads(json.dumps(t.to_json()))) for t in bert] == bert


def test_decisions_sort_by_utf8_name():
    """The order of evidence rows, also beyond ASCII."""
    tensors = [TensorInfo(name, (1,), "F32") for name in ("é", "z", "a.b", "a-b", "𝒜", "ﬀ")]
    found = [decision.name for decision in plan_of({}, tensors).decisions]
    assert found == sorted(found, key=str.encode)


def test_one_name_for_two_tensors_is_a_broken_manifest():
    """A name decides one tensor; two would leave one of them unchecked."""
    with pytest.raises(ValueError, match="two tensors"):
        plan_of({}, [TensorInfo("a", (1,), "F32"), TensorInfo("b", (1,), "F32", aliases=("a",))])


def test_an_unknown_dtype_is_a_broken_manifest():
    """Bytes cannot be counted in a dtype that safetensors has not."""
    with pytest.raises(ValueError, match="unknown dtype 'Q9'"):
        plan_of({}, [TensorInfo("a", (1,), "Q9")])


def test_bytes_of_small_dtypes_are_whole():
    """Packed dtypes take whole bytes."""
    assert [TensorInfo("a", (3,), dtype).nbytes for dtype in ("F4", "BOOL", "BF16", "F32", "C128")] == [2, 3, 6, 12, 48]


def test_an_expectation_of_a_rule_for_tensors_in_no_file(bert):
    """`expect` counts none of them, and the refusal has no names to give."""
    error = refused(freeze({"name": "bert.embeddings.position_ids"}, expect={"tensors": 1}), bert)
    assert error.message.endswith("expects 1 tensors and decides 0")
