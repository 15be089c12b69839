"""Median stopping: the rule by itself, and as a job's reports come in."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Lease
from app.jobs.queue.early_stopping import MedianRule, judge
from app.jobs.queue.tables import Event, Job
from tests.app.jobs.jobs import claim, new_job
from tests.app.sweeps.sweeps import evaluate

RULE = MedianRule("loss", "minimize", min_jobs=3, min_step=0)


@pytest.mark.parametrize(
    ("own", "others", "stops"),
    [
        ([0.9], [0.1, 0.2, 0.3], True),
        ([0.1], [0.1, 0.2, 0.3], False),
        ([0.2], [0.1, 0.2, 0.3], False),  # the median itself is not worse than it
        ([0.15, 0.9], [0.1, 0.2, 0.3], False),  # its best so far counts
        ([0.9], [0.1, 0.2], False),  # too few have come this far
        ([0.9], [0.1, None, float("nan"), 0.2], False),  # what is no number does not count
        ([None], [0.1, 0.2, 0.3], True),
    ],
)
def test_the_rule(own: list[float | None], others: list[float | None], stops: bool) -> None:
    """Worse than the median of enough others, at the same step."""
    found = judge(RULE, 5, own=own, others=others)
    assert (found is not None) == stops
    if found:
        assert found.step == 5 and "worse than the median 0.2 of 3 others" in found.reason


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=12))
def test_the_best_job_always_goes_on(values: list[float]) -> None:
    """Whichever way is better, and however close the others are."""
    goals: list[Literal["minimize", "maximize"]] = ["minimize", "maximize"]
    for goal, best in zip(goals, (min(values), max(values)), strict=True):
        others = list(values)
        others.remove(best)
        assert judge(MedianRule("loss", goal, min_jobs=1, min_step=0), 1, own=[best], others=others) is None


def test_the_rule_survives_its_column() -> None:
    """Also once the reason of a stop is beside it."""
    assert MedianRule.from_json({**RULE.to_json(), "stopped": {"step": 1}}) == RULE


@pytest.fixture
def leases(db: Database) -> list[Lease]:
    """Five jobs of one sweep, all running."""
    rule = MedianRule("loss", "minimize", min_jobs=3, min_step=5).to_json()
    for _ in range(5):
        lifecycle.submit(db, new_job(sweep_id="ftsweep-1", early_stopping=rule))
    return [claim(db) for _ in range(5)]


def test_a_job_that_falls_behind_is_cancelled_with_the_reason(db: Database, leases: list[Lease]) -> None:
    """In the transaction that stores the evaluation; the state is an ordinary one, and no worker has the job."""
    *good, bad = leases
    assert all(evaluate(db, lease, 10, loss) for loss, lease in zip((0.4, 0.3, 0.2, 0.1), good, strict=True))
    assert not evaluate(db, bad, 10, 0.9)
    with db.read() as session:
        job = session.get_one(Job, bad.job_id)
        last = session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.seq.desc())).first()
    assert (job.status, job.lease_owner, job.finished_at is not None) == ("cancelled", None, True)
    assert last is not None and last.message.startswith("Job cancelled: stopped early by its sweep at step 10")
    assert last.data == (job.early_stopping or {})["stopped"]
    assert last.data["best"] == 0.9 and last.data["median"] == pytest.approx(0.25) and last.data["jobs"] == 4


def test_other_steps_are_not_compared(db: Database, leases: list[Lease]) -> None:
    """A job is compared with those that were evaluated at its own step."""
    *good, bad = leases
    assert all(evaluate(db, lease, 9, 0.1) for lease in good)
    assert evaluate(db, bad, 10, 0.9)


def test_a_job_that_is_ahead_is_judged_once_the_others_come(db: Database, leases: list[Lease]) -> None:
    """At the last step that enough of them have reached, and by its best value, also by a later one."""
    *good, bad = leases
    better = good.pop()
    for lease, loss in ((bad, 0.8), (better, 0.01)):
        assert evaluate(db, lease, 10, 0.9) and evaluate(db, lease, 20, loss)
    assert all(evaluate(db, lease, 10, 0.1) for lease in good)
    assert evaluate(db, better, 30, 0.01)
    assert not evaluate(db, bad, 30, 0.8)


def test_early_steps_and_the_last_one_stop_no_job(db: Database, leases: list[Lease]) -> None:
    """Before `min_step` nothing is judged; a job that has taken its last step has its result."""
    *good, bad = leases
    for step in (4, 100):
        assert all(evaluate(db, lease, step, 0.1) for lease in good)
        assert evaluate(db, bad, step, 0.9)


def test_a_job_of_another_sweep_is_not_compared(db: Database, leases: list[Lease]) -> None:
    """Nor one without a sweep, however bad it is."""
    rule = MedianRule("loss", "minimize", min_jobs=1, min_step=0).to_json()
    lifecycle.submit(db, new_job(sweep_id="ftsweep-2", early_stopping=rule))
    lifecycle.submit(db, new_job())
    assert all(evaluate(db, lease, 10, 0.1) for lease in leases)
    assert all(evaluate(db, claim(db), 10, 0.9) for _ in range(2))
