"""The policy is resolved again over the statement's tensors."""

from app.evidence.format.statement import Row
from tests.tamper.kit import (
    World,
    forged,
)


def test_a_buffer_in_no_file_is_known_to_the_policy(world: World) -> None:
    """It has no reading, counts where the policy counts, and is not claimed."""
    row = Row(name="bert.ids", kind="buffer", role="new", persistent=False, dtype="I64", shape=(8,), changed=False)
    world.unstored = (row,)
    world.sign()
    assert world.verify(3).verified
    rows = forged(world.rows(), "bert.ids", shape=None, dtype=None)
    world.sign(world.predicate(rows=rows))
    assert [problem.check for problem in world.verify(3).problems] == ["policy_fits"]


def test_a_policy_without_rules_is_no_error_of_ours(world: World) -> None:
    """`"rules": null` stands for none, also where tensors that no file holds are looked at."""
    row = Row(name="bert.ids", kind="buffer", role="buffer", persistent=False, dtype="I64", shape=(8,), changed=False)
    world.unstored = (row,)
    world.sign(document=lambda top: top["predicate"]["policy"].update(rules=None))
    assert "policy_digest" in {problem.check for problem in world.verify(3).problems}
