"""First match wins, rows go to their rules, and the names of a tie agree."""

import pytest

from app.freeze.plan import TensorInfo
from app.freeze.policy import WHOLE_RUN
from tests.app.freeze.plans import freeze, plan_of, refused


def test_first_match_wins(bert):
    """An exception stands above the rule that it is an exception from."""
    rules = [
        {"id": "norms", "action": "train", "select": {"module_type": "LayerNorm"}},
        {"id": "rest", "action": "freeze", "select": {"module": "bert"}},
    ]
    plan = plan_of({"rules": rules}, bert)
    assert {d.rule for d in plan.decisions if "LayerNorm" in d.name} == {"norms"}
    assert not any(d.action == "freeze" for d in plan.decisions if "LayerNorm" in d.name)


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


def test_an_expectation_of_a_rule_for_tensors_in_no_file(bert):
    """`expect` counts none of them, and the refusal has no names to give."""
    error = refused(freeze({"name": "bert.embeddings.position_ids"}, expect={"tensors": 1}), bert)
    assert error.message.endswith("expects 1 tensors and decides 0")


def test_rows_of_many_rules_are_compared_with_their_neighbours(bert):
    """In any order of the rules, and the message names the rule that has the rows."""
    name = "bert.embeddings.word_embeddings.weight"
    rules = [
        {"id": f"r{start}", "action": "train", "select": {"name": name, "rows": [[start, start + 2]]}}
        for start in (20, 0, 40, 10, 30)
    ]
    assert len(plan_of({"default": "freeze", "rules": rules}, bert).decision(name).trainable_rows) == 5
    late = {"id": "late", "action": "train", "select": {"name": name, "rows": [[31, 33]]}}
    assert "of rule 'r30'" in str(refused({"default": "freeze", "rules": [*rules, late]}, bert))
