"""A sweep's state, from the states of its jobs."""

import pytest

from app.sweeps.views import state


@pytest.mark.parametrize(
    ("counts", "cancelled", "status"),
    [
        ({"queued": 1, "succeeded": 3}, False, "running"),
        ({"paused": 1}, True, "running"),
        ({"succeeded": 1, "failed": 2, "cancelled": 1}, False, "succeeded"),
        ({"failed": 2}, False, "failed"),
        ({"cancelled": 2}, False, "failed"),
        ({"succeeded": 1, "cancelled": 1}, True, "cancelled"),
    ],
)
def test_a_sweep_runs_until_every_job_has_ended(counts: dict[str, int], cancelled: bool, status: str) -> None:
    """Then it is cancelled, succeeded or failed."""
    assert state(counts, cancelled=cancelled) == status
