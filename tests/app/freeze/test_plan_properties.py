"""What holds for every policy and every model, against a resolver that is too simple to be wrong."""

import random
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.errors import PolicyError
from app.freeze.glob import compile_glob
from app.freeze.plan import FreezePlan, TensorInfo, resolve
from app.freeze.policy import WHOLE_RUN, Policy

Json = dict[str, Any]

segments = st.sampled_from(["a", "b", "layer", "0", "1", "10", "weight", "bias"])
names = st.lists(segments, min_size=1, max_size=4).map(".".join)
globs = st.lists(st.one_of(segments, st.sampled_from(["*", "**", "l*", "1*"])), min_size=1, max_size=4).map(".".join)


@st.composite
def models(draw: st.DrawFn) -> list[TensorInfo]:
    """Up to a dozen tensors with ties and buffers; no name is another's module."""
    found = draw(st.lists(names, min_size=2, max_size=16, unique=True))
    leaves = [name for name in found if not any(other.startswith(name + ".") for other in found)]
    tensors = []
    while leaves:
        tied = draw(st.sampled_from([1, 1, 1, 2])) if len(leaves) > 1 else 1
        name, *aliases = (leaves.pop() for _ in range(tied))
        kind = draw(st.sampled_from(["parameter", "parameter", "buffer"]))
        tensors.append(TensorInfo(name, (draw(st.integers(1, 9)), 2), "F32", kind, tuple(aliases)))
    return tensors


@st.composite
def cases(draw: st.DrawFn) -> tuple[Json, list[TensorInfo]]:
    """A model, and a policy that is mostly about names that it has, widened by wildcards."""
    tensors = draw(models())
    every = [name for tensor in tensors for name in (tensor.name, *tensor.aliases)]
    rules = []
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(every)).split(".")
        keep = draw(st.integers(0, len(name)))
        wide = st.sampled_from([[*name[:keep], "**"], [*name[:keep], *("*" for _ in name[keep:])], name])
        glob = draw(st.one_of(wide.map(".".join), wide.map(".".join), globs))
        rules.append({"action": draw(st.sampled_from(["freeze", "train"])), "select": {"name": [glob]}})
    default, buffers = draw(st.sampled_from(["freeze", "train"])), draw(st.sampled_from(["pin", "track"]))
    return {"default": default, "rules": rules, "buffers": buffers}, tensors


def resolved(policy: Policy, tensors: list[TensorInfo]) -> FreezePlan | str:
    """The plan, or where and why there is none."""
    try:
        return resolve(policy, tensors)
    except PolicyError as error:
        return f"{error.param}: {error.message}"


def first_match(policy: Policy, tensor: TensorInfo, name: str) -> str:
    """The rule that decides a name, tried one after the other."""
    for rule in policy.rules:
        matches = any(compile_glob(pattern)(name) for pattern in rule.select.name)
        if matches and (tensor.kind == "parameter" or policy.buffers == "pin"):
            return rule.id
    return "default"


@given(cases())
@settings(max_examples=300)
def test_the_first_match_decides(case):
    """Every parameter has the action of the first rule that matches its name, else of the default."""
    policy, tensors = Policy.from_json(case[0]), case[1]
    plan = resolved(policy, tensors)
    assume(isinstance(plan, FreezePlan))
    actions = {rule.id: rule.action for rule in policy.rules} | {"default": policy.default}
    for tensor in tensors:
        decision = plan.decision(tensor.name)
        rule = first_match(policy, tensor, tensor.name)
        if tensor.kind == "parameter" or rule != "default":
            assert (decision.rule, decision.action) == (rule, actions[rule])
        for alias in tensor.aliases:
            assert plan.decision(alias) is decision
            if tensor.kind == "parameter":
                assert actions[first_match(policy, tensor, alias)] == decision.action


@given(cases())
def test_a_refusal_has_its_reason(case):
    """Where there is no plan, a rule matches nothing or decides nothing, a tie disagrees, or nothing trains."""
    policy, tensors = Policy.from_json(case[0]), case[1]
    assume(not isinstance(resolved(policy, tensors), FreezePlan))
    every = [(tensor, name) for tensor in tensors for name in (tensor.name, *tensor.aliases)]
    unmatched = [
        pattern
        for rule in policy.rules
        for pattern in rule.select.name
        if not any(compile_glob(pattern)(name) for _, name in every)
    ]
    deciding = {first_match(policy, tensor, name) for tensor, name in every}
    idle = [rule for rule in policy.rules if rule.id not in deciding]
    action = {rule.id: rule.action for rule in policy.rules} | {"default": policy.default}
    disputed = [
        tensor
        for tensor in tensors
        if len({action[first_match(policy, tensor, name)] for name in (tensor.name, *tensor.aliases)}) > 1
    ]
    trains = any(
        tensor.kind == "parameter" and action[first_match(policy, tensor, tensor.name)] == "train" for tensor in tensors
    )
    assert unmatched or idle or disputed or not trains


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_tensors_does_not_matter(case, rng: random.Random):
    """The same plan, or the same refusal, however the manifest is ordered."""
    policy, tensors = Policy.from_json(case[0]), case[1]
    shuffled = tensors[:]
    rng.shuffle(shuffled)
    assert resolved(policy, shuffled) == resolved(policy, tensors)


@given(cases())
def test_the_normal_form_means_the_same(case):
    """A policy read again from its normal form resolves to the same plan, and so does a plan read from JSON."""
    policy, tensors = Policy.from_json(case[0]), case[1]
    plan = resolved(policy, tensors)
    again = resolved(Policy.from_json(policy.to_json()), tensors)
    assert again == plan
    if isinstance(plan, FreezePlan):
        assert FreezePlan.from_json(plan.to_json()) == plan
        assert resolved(plan.policy, tensors) == plan


@given(cases())
def test_counts_add_up(case):
    """Frozen and trainable elements of parameters are all elements of parameters."""
    policy, tensors = Policy.from_json(case[0]), case[1]
    plan = resolved(policy, tensors)
    assume(isinstance(plan, FreezePlan))
    counts = plan.counts()
    pinned = sum(d.elements for d in plan.frozen if d.kind == "buffer")  # type: ignore[misc]
    total = sum(tensor.elements for tensor in tensors if tensor.kind == "parameter")
    assert counts["frozen"]["elements"] - pinned + counts["trainable"]["elements"] == total
    assert counts["frozen"]["bytes"] == 4 * counts["frozen"]["elements"]


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), max_size=5), st.data())
def test_rows_cover_a_tensor_once(rows, ranges, data):
    """Frozen and trainable rows of a split are a partition of dimension 0, row by row what the rules say."""
    rules = [
        {"action": data.draw(st.sampled_from(["freeze", "train"])), "select": {"name": "e", "rows": [[a, b]]}}
        for a, b in ranges
        if a < b
    ]
    policy = Policy.from_json({"default": data.draw(st.sampled_from(["freeze", "train"])), "rules": rules})
    plan = resolved(policy, [TensorInfo("e", (rows, 3), "F32"), TensorInfo("w", (1,), "F32")])
    assume(isinstance(plan, FreezePlan))
    decision = plan.decision("e")
    wanted = [policy.default] * rows
    for rule in rules:
        (start, stop), *_ = rule["select"]["rows"]
        wanted[start:stop] = [rule["action"]] * (stop - start)
    if decision.action != "split":
        assert set(wanted) == {decision.action}
        assert decision.intervals == (WHOLE_RUN if decision.action == "freeze" else ())
        return
    found = [""] * rows
    for action, bounds in (("freeze", decision.frozen_rows), ("train", decision.trainable_rows)):
        for start, stop in bounds:
            assert not any(found[start:stop])
            found[start:stop] = [action] * (stop - start)
    assert found == wanted
