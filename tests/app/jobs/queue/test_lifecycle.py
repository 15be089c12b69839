"""The job's state machine, on each database that the service runs on."""

import contextlib
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.db import Database, now
from app.errors import Conflict, NotFound
from app.evidence.tables import Evidence, Parameter
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost, Outcome
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import Event, Job, Metric
from tests.app.jobs.jobs import new_job


def submitted(db: Database, **fields) -> Job:
    return lifecycle.submit(db, new_job(**fields))[0]


def claimed(db: Database, *, seconds: float = 60.0) -> Lease:
    lease = lifecycle.claim(db, worker="w1", seconds=seconds)
    assert lease is not None
    return lease


def row(db: Database, job_id: str) -> Job:
    with db.read() as session:
        return session.get_one(Job, job_id)


def events(db: Database, job_id: str) -> list[Event]:
    with db.read() as session:
        return list(session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq)))


def expire(db: Database, lease: Lease) -> None:
    """Lets the lease run out, as seen by the database's clock."""
    with db.write() as session:
        session.execute(
            update(Job).where(Job.id == lease.job_id).values(lease_until=now(session) - timedelta(seconds=1))
        )


def test_a_job_runs_from_submission_to_success(db):
    """submit, claim, beat and finish leave status, evidence, parameters, metrics and gapless events."""
    job = submitted(db)
    lease = claimed(db)
    assert (lease.job_id, lease.attempt) == (job.id, 1)
    news = AttemptUpdates(
        progress={"step": 1}, freeze_plan={"frozen": {"tensors": 1}}, events=[NewEvent("one"), NewEvent("two")]
    )
    news.metrics.append((1, "train", {"loss": 0.5}))
    news.hyperparameters = {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 1.0, "precision": "fp32"}
    assert lifecycle.beat(db, lease, news) == "run"
    evidence = Evidence(job_id=job.id, attempt=1, verdict="verified", frozen_tensors=1, frozen_bytes=40)
    parameter = Parameter(job_id=job.id, position=0, name="weight", kind="parameter", role="frozen", dtype="F32")
    parameter.shape, parameter.elements, parameter.nbytes, parameter.changed = [10], 10, 40, False
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, parameters=[parameter], trained_tokens=7))

    done = row(db, job.id)
    assert (done.status, done.lease_owner, done.lease_until, done.trained_tokens) == ("succeeded", None, None, 7)
    three = {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 1.0}
    assert done.hyperparameters == news.hyperparameters
    assert done.method == {"type": "supervised", "supervised": {"hyperparameters": three}}
    assert done.version > job.version and done.progress == {"step": 1}
    assert [event.seq for event in events(db, job.id)] == list(range(1, done.events_count + 1))
    with db.read() as session:
        assert session.get_one(Evidence, job.id).verdict == "verified"
        assert session.scalars(select(Parameter.name)).all() == ["weight"]
        assert session.get_one(Metric, (job.id, 1, "train")).values == {"loss": 0.5}


def test_finish_twice_is_once(db):
    """A finish whose answer was lost may be repeated: one event, no error; another ending is refused."""
    job = submitted(db)
    lease = claimed(db)
    lifecycle.finish(db, lease, Outcome("succeeded"))
    lifecycle.finish(db, lease, Outcome("succeeded"))
    assert [event.message for event in events(db, job.id)].count("Job succeeded") == 1
    with pytest.raises(LeaseLost, match="succeeded"):
        lifecycle.finish(db, lease, Outcome("failed", error={"message": "late"}))


def test_claims_never_share_a_job(db):
    """Eight threads claim four jobs: each job goes to exactly one of them."""
    jobs = {submitted(db).id for _ in range(4)}
    leases: list[Lease | None] = []
    start = threading.Barrier(8)

    def claim(worker: str) -> None:
        start.wait()
        leases.append(lifecycle.claim(db, worker=worker, seconds=60))

    threads = [threading.Thread(target=claim, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [lease.job_id for lease in leases if lease]
    # A claimer that loses a race may go away empty-handed (its doorbell rings again); none may take another's job.
    assert len(taken) == len(set(taken))
    while lease := lifecycle.claim(db, worker="last", seconds=60):
        taken.append(lease.job_id)
    assert sorted(taken) == sorted(jobs)


def test_priority_then_age(db):
    """The best waiting job is taken first, whichever doorbell rang."""
    first, second, urgent = submitted(db), submitted(db), submitted(db, priority=5)
    assert [claimed(db).job_id for _ in range(3)] == [urgent.id, first.id, second.id]


def test_a_lease_that_ran_out_writes_nothing(db):
    """After a takeover neither beat nor finish of the old attempt matches a row."""
    job = submitted(db)
    old = claimed(db)
    expire(db, old)
    with pytest.raises(LeaseLost):
        lifecycle.beat(db, old)
    assert lifecycle.recover(db, limit=3) == []  # it waits out its back-off
    assert row(db, job.id).status == "queued" and row(db, job.id).crashes == 1
    with db.write() as session:
        session.execute(update(Job).values(not_before=None))
    assert lifecycle.recover(db, limit=3) == [job.id]
    new = claimed(db)
    assert new.attempt == 2
    for stale in (lambda: lifecycle.beat(db, old), lambda: lifecycle.finish(db, old, Outcome("succeeded"))):
        with pytest.raises(LeaseLost):
            stale()
    lifecycle.finish(db, new, Outcome("succeeded"))
    assert row(db, job.id).status == "succeeded"


def test_two_sweeps_make_one_takeover(db):
    """Sweeps that run side by side book one crash."""
    job = submitted(db)
    expire(db, claimed(db))
    threads = [threading.Thread(target=lifecycle.recover, args=(db,), kwargs={"limit": 3}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert row(db, job.id).crashes == 1


def test_a_poison_job_fails_after_three_crashes(db):
    """The third crash ends the job, with the last lines of its log."""
    job = submitted(db)
    for expected in ("queued", "queued", "failed"):
        assert lifecycle.crash(db, claimed(db), "killed by signal 9", log_tail=["last line"], limit=3) == expected
        with db.write() as session:
            session.execute(update(Job).values(not_before=None))
    failed = row(db, job.id)
    assert failed.error["code"] == "trainer_crashed" and failed.error["log_tail"] == ["last line"]
    assert "signal 9" in failed.error["message"] and failed.finished_at is not None
    assert lifecycle.claim(db, worker="w", seconds=60) is None


@pytest.mark.parametrize("state", ["queued", "running", "pausing", "paused"])
def test_cancel_from_any_live_state(db, state):
    """Cancelling takes effect at once, twice is once, and a worker that held the job writes nothing more."""
    job = submitted(db)
    lease = claimed(db) if state in LEASED else None
    if state in {"pausing", "paused"}:
        lifecycle.pause(db, "default", job.id)
    assert row(db, job.id).status == state
    assert lifecycle.cancel(db, "default", job.id).status == "cancelled"
    count = len(events(db, job.id))
    assert lifecycle.cancel(db, "default", job.id).status == "cancelled" and len(events(db, job.id)) == count
    if lease:
        with pytest.raises(LeaseLost, match="cancelled"):
            lifecycle.finish(db, lease, Outcome("succeeded"))
    with pytest.raises(Conflict, match="cannot be resumed"):
        lifecycle.resume(db, "default", job.id)


def test_cancel_after_the_end_is_a_conflict(db):
    """A job that succeeded stays so, and the client is told not to retry."""
    job = submitted(db)
    lifecycle.finish(db, claimed(db), Outcome("succeeded"))
    with pytest.raises(Conflict) as caught:
        lifecycle.cancel(db, "default", job.id)
    assert caught.value.headers == {"x-should-retry": "false"}
    assert row(db, job.id).status == "succeeded"


def test_pause_saves_then_rests_then_goes_on(db):
    """running -> pausing -> paused -> queued -> running; the worker reads the wish from its beat."""
    job = submitted(db)
    lease = claimed(db)
    assert lifecycle.pause(db, "default", job.id).status == "pausing"
    assert lifecycle.beat(db, lease) == "pause"
    assert lifecycle.release(db, lease) == "paused"
    assert lifecycle.claim(db, worker="w", seconds=60) is None
    assert lifecycle.resume(db, "default", job.id).status == "queued"
    again = claimed(db)
    assert again.attempt == 2 and row(db, job.id).crashes == 0


def test_a_pause_taken_back(db):
    """Resuming while pausing lets the worker go on; had it stopped already, the job is queued again."""
    job = submitted(db)
    lease = claimed(db)
    lifecycle.pause(db, "default", job.id)
    assert lifecycle.resume(db, "default", job.id).status == "running"
    assert lifecycle.beat(db, lease) == "run"
    assert lifecycle.release(db, lease) == "queued"


def test_a_drained_worker_is_not_a_crash(db):
    """Release queues the job at once for the next worker, and counts nothing."""
    job = submitted(db)
    assert lifecycle.release(db, claimed(db)) == "queued"
    assert row(db, job.id).crashes == 0 and lifecycle.recover(db, limit=3) == [job.id]


def test_lost_devices_are_no_crashes_and_have_a_bound(db):
    """Queued again at once; a job under which as many devices went as attempts may crash is suspected, and fails."""
    job = submitted(db, retries=0)
    assert lifecycle.lose(db, claimed(db), limit=3) == "queued"
    assert lifecycle.recover(db, limit=3) == [job.id]
    assert lifecycle.lose(db, claimed(db), limit=3) == "queued"
    assert lifecycle.lose(db, claimed(db), limit=3) == "failed"
    found = row(db, job.id)
    assert (found.crashes, found.error["code"]) == (0, "device_lost")
    assert "3 devices" in found.error["message"] and found.finished_at is not None


def test_a_device_lost_while_pausing_rests_paused(db):
    """The wish to pause outlives the device."""
    job = submitted(db)
    lease = claimed(db)
    lifecycle.pause(db, "default", job.id)
    assert lifecycle.lose(db, lease, limit=1) == "failed"
    other = submitted(db)
    lease = claimed(db)
    lifecycle.pause(db, "default", other.id)
    assert lifecycle.lose(db, lease, limit=2) == "paused"


def test_a_crash_while_pausing_rests_paused(db):
    """The wish to pause outlives the trainer."""
    job = submitted(db)
    lease = claimed(db)
    lifecycle.pause(db, "default", job.id)
    assert lifecycle.crash(db, lease, "killed", limit=3) == "paused"
    assert lifecycle.resume(db, "default", job.id).status == "queued"


def test_a_beat_without_news_leaves_the_version(db):
    """A poller's ETag changes only when there is something to see."""
    job = submitted(db)
    lease = claimed(db)
    version = row(db, job.id).version
    lifecycle.beat(db, lease)
    assert row(db, job.id).version == version
    lifecycle.beat(db, lease, AttemptUpdates(progress={"step": 2}))
    assert row(db, job.id).version == version + 1


def test_cancel_races_with_completion(db):
    """Exactly one of the two wins, and the loser is told."""
    for _ in range(20):
        job = submitted(db)
        lease = claimed(db)
        won: list[str] = []
        start = threading.Barrier(2)

        def end(won=won, lease=lease, start=start) -> None:
            start.wait()
            try:
                lifecycle.finish(db, lease, Outcome("succeeded"))
                won.append("succeeded")
            except LeaseLost:
                pass

        def stop(won=won, job=job, start=start) -> None:
            start.wait()
            with contextlib.suppress(Conflict):
                won.append(lifecycle.cancel(db, "default", job.id).status)

        threads = [threading.Thread(target=end), threading.Thread(target=stop)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [row(db, job.id).status]


def test_two_cancels_at_once(db):
    """Whoever comes second gets the first one's answer, and not a refusal; one event tells of it."""
    for _ in range(10):
        job = submitted(db)
        claimed(db)
        answers: list[str] = []
        start = threading.Barrier(4)

        def stop(job=job, start=start, answers=answers) -> None:
            start.wait()
            answers.append(lifecycle.cancel(db, "default", job.id).status)

        threads = [threading.Thread(target=stop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["cancelled"] * 4
        with db.read() as session:
            told = session.scalars(select(Event.message).where(Event.job_id == job.id)).all()
        assert told.count("Job cancelled") == 1


def test_another_projects_job_is_not_found(db):
    """No hint that the id exists elsewhere."""
    job = submitted(db)
    for act in (lifecycle.cancel, lifecycle.pause, lifecycle.resume):
        with pytest.raises(NotFound):
            act(db, "another", job.id)


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3), (None, 4)])
def test_a_job_says_how_often_it_is_tried_again(db: Database, retries: int | None, attempts: int) -> None:
    """Its own bound wins over the service's, here four crashes."""
    job, _ = lifecycle.submit(db, new_job(retries=retries))
    for attempt in range(1, attempts + 1):
        with db.write() as session:
            session.get_one(Job, job.id).not_before = None
        lease = lifecycle.claim(db, worker="w", seconds=60)
        assert lease is not None
        status = lifecycle.crash(db, lease, "killed", limit=4)
        assert status == ("failed" if attempt == attempts else "queued")
