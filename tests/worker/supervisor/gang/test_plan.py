"""What leader and members tell each other passes through a column of JSON."""

import json

import pytest

from worker.supervisor.gang.plan import GangPlan, MemberOutcome, TravellingCheckpoint


@pytest.mark.parametrize("checkpoint", [None, TravellingCheckpoint(7, (("manifest.json", "key", "ab"),))])
def test_a_plan_is_read_as_it_was_written(checkpoint: TravellingCheckpoint | None) -> None:
    """With a checkpoint to go on from and without."""
    plan = GangPlan("10.0.0.5:4000", "code", "base", None, checkpoint)
    assert GangPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "outcome", [MemberOutcome(0), MemberOutcome(1, {"type": "failed", "message": "no"}), MemberOutcome(error="no disk")]
)
def test_an_outcome_is_read_as_it_was_written(outcome: MemberOutcome) -> None:
    """A trainer's exit code and report, or what went wrong before there was one."""
    assert MemberOutcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
