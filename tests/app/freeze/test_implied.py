"""The policy that an adapter job has without one of its own."""

from app.freeze.implied import implied_policy
from app.freeze.plan import TensorInfo, resolve
from app.freeze.policy import Policy

BASE = "base_model.model.layer.weight"
HEAD = "base_model.model.classifier.weight"
TENSORS = [TensorInfo(name, (2, 2), "F32") for name in (BASE, HEAD, "base_model.model.layer.lora_A.default.weight")]


def test_base_is_frozen_and_the_rest_trains() -> None:
    """Adapter and new head train; what else there is does not."""
    plan = resolve(implied_policy(Policy(), [HEAD]), TENSORS)
    assert [each.name for each in plan.frozen] == [BASE]


def test_two_steps_give_what_one_gives() -> None:
    """Stored before the model is loaded and completed afterwards: the same policy, to its digest."""
    stored = Policy.from_json(implied_policy(Policy()).to_json())
    assert implied_policy(stored, [HEAD]).digest() == implied_policy(Policy(), [HEAD]).digest()
    assert implied_policy(implied_policy(stored, [HEAD]), [HEAD]) == implied_policy(stored, [HEAD])


def test_what_was_asked_for_stays() -> None:
    """A policy with rules is left alone; one that only says what to do about a violation keeps that."""
    asked = Policy.from_json({"freeze": ["**.layer.weight"]})
    assert implied_policy(asked, [HEAD]) is asked
    assert implied_policy(Policy.from_json({"on_violation": "continue"})).on_violation == "continue"
