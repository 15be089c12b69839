"""Reading policies: what users write, its normal form, and every refusal with its path."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import PolicyError
from app.freeze.policy import Policy
from app.freeze.schemas import EXAMPLES


def rule(**parts):
    return {"rules": [{"action": "freeze", "select": {"name": "a"}} | parts]}


def refused(policy):
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(policy)
    assert caught.value.code == "invalid_freeze_policy"
    assert caught.value.status == 400
    return caught.value


def test_an_empty_policy_trains_everything():
    """The defaults are those of a job without a policy."""
    policy = Policy.from_json({})
    assert policy == Policy.from_json({"default": "train", "rules": []})
    assert (policy.default, policy.buffers, policy.on_violation, policy.enforce) == ("train", "pin", "abort", True)


def test_freeze_shorthand():
    """A list of names to freeze: the rest trains, by the mechanism given."""
    policy = Policy.from_json({"freeze": ["bert.**"], "mechanism": "detach"})
    assert policy.default == "train"
    assert [r.to_json() for r in policy.rules] == [
        {"id": "rule-1", "action": "freeze", "mechanism": "detach", "select": {"name": ["bert.**"]}}
    ]


def test_train_shorthand():
    """A list of names to train: the rest is frozen, by the mechanism given."""
    policy = Policy.from_json({"train": "head.**", "mechanism": "param_group"})
    assert (policy.default, policy.mechanism) == ("freeze", "param_group")
    assert [r.to_json() for r in policy.rules] == [{"id": "rule-1", "action": "train", "select": {"name": ["head.**"]}}]


def test_missing_ids_are_numbered_around_the_given_ones():
    """An id made up for a rule never takes one that a user gave to another."""
    rules = [{"action": "freeze", "select": {"name": "a"}} for _ in range(3)]
    rules[2]["id"] = "rule-1"
    assert [r.id for r in Policy.from_json({"rules": rules}).rules] == ["rule-2", "rule-3", "rule-1"]


def test_an_audit_continues_after_a_violation():
    """Without enforcement, stopping at the first movement would defeat the audit; an explicit wish still counts."""
    assert Policy.from_json({"enforce": False}).on_violation == "continue"
    assert Policy.from_json({"enforce": False, "on_violation": "abort"}).on_violation == "abort"


def test_rules_inherit_the_mechanism():
    """A rule without a mechanism takes the policy's; one that trains has none."""
    rules = [
        {"action": "freeze", "select": {"name": "a"}},
        {"action": "freeze", "mechanism": "param_group", "select": {"name": "b"}},
        {"action": "train", "select": {"name": "c"}},
    ]
    policy = Policy.from_json({"mechanism": "detach", "rules": rules})
    assert [r.mechanism for r in policy.rules] == ["detach", "param_group", None]


def test_null_is_a_key_left_out():
    """Clients that write every field mean the defaults by null."""
    policy = {"freeze": None, "train": None, "default": None, "enforce": None, "buffers": None}
    assert Policy.from_json(policy) == Policy()
    assert Policy.from_json(rule(id=None, expect=None, when=None, mechanism=None)) == Policy.from_json(rule())


def test_touching_row_ranges_become_one():
    """Two ways to write the same rows have one normal form."""
    select = {"name": "a", "rows": [[4, 6], [0, 2], [2, 4]]}
    assert Policy.from_json(rule(select=select)).rules[0].select.rows == ((0, 6),)


@pytest.mark.parametrize("name", EXAMPLES)
def test_normal_form_is_a_fixed_point(name):
    """Reading the normal form gives the same policy, the same JSON and the same digest."""
    policy = Policy.from_json(EXAMPLES[name])
    again = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    assert again.to_json() == policy.to_json()
    assert again.digest() == policy.digest()


def test_digest_is_the_hash_of_the_canonical_normal_form():
    """A verifier in any language can recompute it: sorted keys, no spaces, UTF-8."""
    from hashlib import sha256

    policy = Policy.from_json({"freeze": ["größe.**"]})
    text = (
        '{"buffers":"pin","default":"train","enforce":true,"mechanism":"requires_grad","on_violation":"abort",'
        '"rules":[{"action":"freeze","id":"rule-1","mechanism":"requires_grad","select":{"name":["größe.**"]}}]}'
    )
    assert policy.digest() == sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("policy", "param", "says"),
    [
        ([], "freeze_policy", "must be an object, not a list"),
        ("freeze", "freeze_policy", "must be an object, not a string"),
        ({"defualt": "train"}, "freeze_policy.defualt", "did you mean 'default'"),
        ({"default": "frozen"}, "freeze_policy.default", "'freeze', 'train'"),
        ({"default": True}, "freeze_policy.default", "'freeze', 'train'"),
        ({"mechanism": "hook"}, "freeze_policy.mechanism", "'requires_grad', 'detach', 'param_group'"),
        ({"buffers": "freeze"}, "freeze_policy.buffers", "'pin', 'track'"),
        ({"on_violation": "stop"}, "freeze_policy.on_violation", "'abort', 'continue'"),
        ({"enforce": "no"}, "freeze_policy.enforce", "true or false"),
        ({"enforce": 0}, "freeze_policy.enforce", "true or false"),
        ({"rules": {}}, "freeze_policy.rules", "list of rules"),
        ({"rules": [1]}, "freeze_policy.rules[0]", "must be an object"),
        ({"rules": [{}] * 1001}, "freeze_policy.rules", "at most 1000"),
        ({"freeze": ["a"], "train": ["b"]}, "freeze_policy", "use 'rules'"),
        ({"freeze": ["a"], "rules": []}, "freeze_policy", "use 'rules'"),
        ({"train": ["a"], "default": "freeze"}, "freeze_policy", "use 'rules'"),
        ({"freeze": []}, "freeze_policy.freeze", "at least one"),
        ({"freeze": ["a", 3]}, "freeze_policy.freeze[1]", "must be a string"),
        ({"freeze": ["a", "b..c"]}, "freeze_policy.freeze[1]", "empty segment"),
        ({"freeze": ["\ud800"]}, "freeze_policy.freeze[0]", "half of a surrogate pair"),
        ({"rules": [{"select": {"name": "a"}}]}, "~.action", "needs 'action'"),
        ({"rules": [{"action": "freeze"}]}, "~.select", "needs 'select'"),
        (rule(actoin="freeze"), "~.actoin", "did you mean 'action'"),
        (rule(id=""), "~.id", "1 to 64"),
        (rule(id="a b"), "~.id", "1 to 64"),
        (rule(id="default"), "~.id", "choose another"),
        (rule(action="train", mechanism="detach"), "~.mechanism", "only a rule that freezes"),
        (rule(action="train", when=[{"to_step": 5}]), "~.when", "only a rule that freezes"),
        (rule(select={}), "~.select", "selects nothing"),
        (rule(select={"nam": "a"}), "~.select.nam", "did you mean 'name'"),
        (rule(select={"rows": [[0, 1]]}), "~.select", "add 'name'"),
        (rule(select={"kind": "weight"}), "~.select.kind", "'parameter', 'buffer'"),
        (rule(select={"regex": "(a"}), "~.select.regex", "not a regex"),
        (rule(select={"regex": ["a", r"(a)\1"]}), "~.select.regex[1]", "back-references"),
        (rule(select={"layers": {"first": 2}}), "~.select.layers.path", "needs 'path'"),
        (rule(select={"layers": {"path": "a.*", "first": 2}}), "~.select.layers.path", "own path"),
        (rule(select={"layers": {"path": "a"}}), "~.select.layers", "one of the three"),
        (
            rule(select={"layers": {"path": "a", "first": 1, "last": 1}}),
            "~.select.layers",
            "one of",
        ),
        (
            rule(select={"layers": {"path": "a", "first": 0}}),
            "~.select.layers.first",
            "at least 1",
        ),
        (rule(select={"layers": {"path": "a", "first": True}}), "~.select.layers.first", "whole"),
        (rule(select={"layers": {"path": "a", "first": 2.0}}), "~.select.layers.first", "whole"),
        (
            rule(select={"layers": {"path": "a", "from": 3, "to": 3}}),
            "~.select.layers",
            "is empty",
        ),
        (rule(select={"name": "a", "rows": []}), "~.select.rows", "at least one"),
        (rule(select={"name": "a", "rows": [0, 5]}), "~.select.rows[0]", "pair"),
        (rule(select={"name": "a", "rows": [[5, 5]]}), "~.select.rows[0]", "holds no row"),
        (rule(select={"name": "a", "rows": [[-1, 5]]}), "~.select.rows[0]", "at least 0"),
        (rule(select={"name": "a", "rows": [[0, 5], [4, 6]]}), "~.select.rows", "overlap"),
        (rule(expect={}), "~.expect", "expects nothing"),
        (rule(expect={"tensors": 0}), "~.expect.tensors", "at least 1"),
        (rule(expect={"tensor": 1}), "~.expect.tensor", "did you mean 'tensors'"),
        (rule(when=[]), "~.when", "at least one"),
        (rule(when={"from_step": 0}), "~.when", "list"),
        (rule(when=[{"from_step": 5}]), "~.when[0].to_step", "never ends"),
        (rule(when=[{"from_step": 0, "to_step": None}]), "~.when[0]", "never ends"),
        (rule(when=[{"from_step": 5, "to_step": 5}]), "~.when[0]", "never begins"),
        (rule(when=[{"to_step": 9}, {"from_step": 8, "to_step": 12}]), "~.when[1]", "overlap"),
        (rule(when=[{"from_step": 9, "to_step": None}, {"to_step": 5}]), "~.when[1]", "overlap"),
        (rule(when=[{"to_step": 9}, {"from_step": 9, "to_step": 12}]), "~.when[1]", "join"),
        (
            rule(select={"name": "a", "rows": [[0, 1]]}, when=[{"to_step": 5}]),
            "~.when",
            "schedule",
        ),
    ],
)
def test_refusals_name_the_place(policy, param, says):
    """Each mistake is refused with the path of the part (~ is the first rule) and what would work."""
    error = refused(policy)
    assert error.param == param.replace("~", "freeze_policy.rules[0]")
    assert says in error.message


def test_ids_are_unique():
    """A decision names its rule, so two rules cannot share an id."""
    rules = [{"id": "x", "action": "freeze", "select": {"name": name}} for name in "ab"]
    error = refused({"rules": rules})
    assert error.param == "freeze_policy.rules[1].id"
    assert "freeze_policy.rules[0]" in error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["rules", "select", "name", "rows", "freeze", "id", "when", "x"]), inner)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_refused(value):
    """Nothing that a client can send raises anything but PolicyError, and what is read is a fixed point."""
    try:
        policy = Policy.from_json(value)
    except PolicyError as error:
        assert error.param.startswith("freeze_policy")
    else:
        assert Policy.from_json(policy.to_json()) == policy


@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_a_damaged_policy_is_read_or_refused(name, data):
    """Replace any part of a good policy by any JSON: PolicyError, or a policy."""
    policy = json.loads(json.dumps(EXAMPLES[name]))
    part = policy
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(part[key], dict | list) and part[key] and data.draw(st.booleans()):
            part = part[key]
            continue
        part[key] = data.draw(json_values)
        break
    try:
        Policy.from_json(policy)
    except PolicyError as error:
        assert error.param.startswith("freeze_policy")
