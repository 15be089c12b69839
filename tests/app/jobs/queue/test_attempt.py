"""What a worker reports of an attempt, and how it ended."""

import pytest

from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost, Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent


@pytest.mark.parametrize(
    "updates",
    [
        AttemptUpdates(progress={"step": 1}),
        AttemptUpdates(freeze_plan={"frozen": {}}),
        AttemptUpdates(hyperparameters={"n_epochs": 1}),
        AttemptUpdates(events=[NewEvent("one")]),
        AttemptUpdates(metrics=[(1, "train", {"loss": 1.0})]),
        AttemptUpdates(checkpoints=[NewCheckpoint(1, {})]),
    ],
)
def test_any_update_is_worth_a_write(updates: AttemptUpdates) -> None:
    """A heartbeat stores updates only when there are any."""
    assert updates
    assert not AttemptUpdates()


def test_the_last_event_says_how_the_job_ended() -> None:
    """A failure's event has its message and the error itself; one without a message says so."""
    error = {"code": "x", "message": "out of memory"}
    assert Outcome("succeeded").final_event() == NewEvent("Job succeeded", data={"model": None})
    failed = Outcome("failed", error=error).final_event()
    assert (failed.message, failed.level, failed.data) == ("Job failed: out of memory", "error", error)
    assert Outcome("failed").final_event().message == "Job failed: no reason was given"


def test_a_lost_lease_names_the_attempt_and_the_jobs_state() -> None:
    """What a worker logs when another one has taken over."""
    lost = LeaseLost(Lease("ftjob-1", 2, "w", 60.0), "cancelled")
    assert str(lost) == "attempt 2 of ftjob-1 has lost its lease; the job is cancelled"
    assert lost.status == "cancelled"
