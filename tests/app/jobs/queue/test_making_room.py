"""Requests to make room, on both databases: which jobs, what they are to do, and what is said about it."""

from typing import Any

import pytest
from sqlalchemy import select

from app.db import Database
from app.jobs.queue import gang_rows, lifecycle, workers
from app.jobs.queue.attempt import AttemptUpdates, Lease
from app.jobs.queue.fair_share import EQUAL, ProjectShares
from app.jobs.queue.making_room import make_room
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.tables import Event, Job
from app.jobs.queue.waiting import queue_positions
from tests.app.jobs.jobs import new_job


def started(db: Database, worker: str = "w", *, step: int | None = 1, shares: ProjectShares = EQUAL) -> Lease:
    """The lease of the next job, which has reached this step."""
    offer = Offer({CPU: 2}, {CPU: 2})
    lease = lifecycle.claim(db, worker=f"{worker}/1", seconds=600, offer=offer, shares=shares)
    assert lease is not None
    if step is not None:
        reached(db, lease, step)
    return lease


def reached(db: Database, lease: Lease, step: int, **progress: Any) -> None:
    lifecycle.beat(db, lease, AttemptUpdates(progress={"step": step, "total_steps": 9, **progress}))


def submit(db: Database, job_id: str, priority: int = 0, **fields: Any) -> None:
    lifecycle.submit(db, new_job(id=job_id, priority=priority, **fields))


def says(db: Database, job_id: str) -> str | None:
    with db.read() as session:
        job = session.get_one(Job, job_id)
        return queue_positions(session, job.project, [job])[job_id].waiting_for


def events(db: Database, job_id: str) -> list[str]:
    with db.read() as session:
        return list(session.scalars(select(Event.message).where(Event.job_id == job_id).order_by(Event.seq)))


@pytest.fixture(autouse=True)
def _a_worker(db: Database) -> None:
    workers.register(db, "w", devices=1, kind="cpu", products={CPU: 1})


def test_a_running_job_makes_room(db: Database) -> None:
    """It is to yield; given back, it waits again and nothing is counted as a crash, and the other one is next."""
    submit(db, "ftjob-low", devices=1)
    lease = started(db)
    submit(db, "ftjob-high", 5)
    assert lifecycle.beat(db, lease) == "run"
    assert make_room(db, EQUAL, most=3) == ["ftjob-low"]
    assert make_room(db, EQUAL, most=3) == []  # it is being done
    assert lifecycle.beat(db, lease) == "yield"
    assert says(db, "ftjob-high") == "the end of ftjob-low, which makes room for it"

    assert lifecycle.release(db, lease) == "queued"
    named = "ftjob-high, which has priority 5"
    assert events(db, "ftjob-low")[-2:] == [
        f"Job saves its state, to make room for {named}",
        f"Job has made room for {named}; job queued again",
    ]
    assert started(db).job_id == "ftjob-high"
    assert says(db, "ftjob-low") is None
    with db.read() as session:
        job = session.get_one(Job, "ftjob-low")
        assert (job.status, job.desired, job.crashes, job.preemptions) == ("queued", "run", 0, 1)
        assert job.preempted_for is None


def test_a_row_that_its_worker_is_writing_is_left_for_the_next_round(db: Database) -> None:
    """Nobody waits for a heartbeat: nothing is requested now, and all of it in the next round."""
    submit(db, "ftjob-low", devices=1)
    started(db)
    submit(db, "ftjob-high", 5)
    if not db.sqlite:  # which locks no rows
        with db.write() as heartbeat:
            heartbeat.get_one(Job, "ftjob-low", with_for_update=True)
            assert make_room(db, EQUAL, most=3) == []
    assert make_room(db, EQUAL, most=3) == ["ftjob-low"]


def test_a_pause_goes_before(db: Database) -> None:
    """A person's wish is the stronger one: the job is paused and stays so."""
    submit(db, "ftjob-low")
    lease = started(db)
    submit(db, "ftjob-high", 5)
    make_room(db, EQUAL, most=3)
    lifecycle.pause(db, "default", "ftjob-low")
    assert lifecycle.beat(db, lease) == "pause"
    assert lifecycle.release(db, lease) == "paused"


@pytest.mark.parametrize(
    ("step", "progress", "stopped"),
    [(0, {}, False), (1, {}, True), (9, {}, False), (1, {"eta_seconds": 59}, False), (1, {"eta_seconds": 90}, True)],
    ids=["no step yet", "under way", "done", "ends soon", "ends later"],
)
def test_only_a_job_that_got_further_is_stopped(
    db: Database, step: int, progress: dict[str, Any], stopped: bool
) -> None:
    """And not for a device that becomes free within a minute."""
    submit(db, "ftjob-low")
    reached(db, started(db, step=None), step, **progress)
    submit(db, "ftjob-high", 5)
    assert bool(make_room(db, EQUAL, most=3)) == stopped


def test_a_job_is_stopped_so_often_and_no_more(db: Database) -> None:
    """Each time only after it got further than ever before, also where it starts from a checkpoint before that."""
    submit(db, "ftjob-low")
    for number, step in enumerate((3, 5)):
        lease = started(db, step=step - 2)
        submit(db, f"ftjob-{number}", 5)
        if number:
            assert make_room(db, EQUAL, most=2) == []  # three steps had been made before
            reached(db, lease, step)
        reached(db, lease, step)
        assert make_room(db, EQUAL, most=2) == ["ftjob-low"]
        lifecycle.release(db, lease)
        lifecycle.cancel(db, "default", started(db).job_id)

    reached(db, started(db), 8)
    submit(db, "ftjob-last", 5)
    assert make_room(db, EQUAL, most=2) == []


def test_equal_priority_and_older_jobs_are_left_alone(db: Database) -> None:
    """A job that has waited long enough to go before the other one is not stopped for it."""
    submit(db, "ftjob-low")
    started(db)
    submit(db, "ftjob-same")
    assert make_room(db, EQUAL, most=3) == []
    with db.write() as session:
        job = session.get_one(Job, "ftjob-low")
        job.queue_time = job.queue_time.replace(year=job.queue_time.year - 1)
    submit(db, "ftjob-high", 5)
    assert make_room(db, EQUAL, most=3) == []


def test_a_free_worker_is_room_enough(db: Database) -> None:
    """Nothing is stopped while a worker could take the job; a large job does not fit there, and gets room."""
    submit(db, "ftjob-low")
    started(db)
    workers.register(db, "other", devices=1, kind="cpu", products={CPU: 1})
    submit(db, "ftjob-high", 5)
    assert make_room(db, EQUAL, most=3) == []


def test_a_project_with_more_than_its_share_makes_room(db: Database) -> None:
    """So much that both have their shares; neither reads the other's names."""
    workers.register(db, "w", devices=2, kind="cpu", products={CPU: 2})
    for number in range(2):
        submit(db, f"ftjob-{number}", priority=100 * number)
        started(db)
    submit(db, "ftjob-theirs", project="other", priority=-100)
    (stopped,) = make_room(db, EQUAL, most=3)
    assert stopped == "ftjob-0"  # the one that goes last in its project
    assert events(db, stopped)[-1].endswith("a job of another project, which has less than its share of the devices")
    assert says(db, "ftjob-theirs") == "the end of a job of another project, which makes room for it"


def test_a_share_that_is_no_whole_device_stops_nothing(db: Database) -> None:
    """One device is shared by turns: a stopped job of the one project would as well be stopped for the other."""
    submit(db, "ftjob-ours")
    started(db)
    submit(db, "ftjob-theirs", project="other")
    assert make_room(db, EQUAL, most=3) == []


def test_a_project_at_its_limit_makes_room_for_itself(db: Database) -> None:
    """Also where another device is free, which the project may not have."""
    shares = ProjectShares(limits={"*": 1})
    workers.register(db, "w", devices=2, kind="cpu", products={CPU: 2})
    submit(db, "ftjob-low")
    started(db)
    submit(db, "ftjob-high", 5)
    assert make_room(db, shares, most=3) == ["ftjob-low"]


def test_devices_of_several_kinds(db: Database) -> None:
    """Rows do not say which of them a job has: no job is stopped that may free another kind than is needed."""
    workers.register(db, "w", devices=2, kind="cuda", products={"A100": 2, "H100": 1})
    for _ in range(3):
        submit(db, f"ftjob-{_}")
        started(db)
    submit(db, "ftjob-h100", 5, device="H100")
    assert make_room(db, EQUAL, most=3) == []
    lifecycle.cancel(db, "default", "ftjob-h100")
    submit(db, "ftjob-any", 5)
    assert make_room(db, EQUAL, most=3) == ["ftjob-2"]


def able(db: Database, *names: str, code: str = "c") -> None:
    """Workers with a device each that form gangs."""
    for name in names:
        workers.register(db, name, devices=1, kind=CPU, products={CPU: 1}, gang_address="127.0.0.1", code=code)


def claimed(db: Database, worker: str, *, step: int | None = 1) -> Lease:
    offer = Offer({CPU: 1}, {CPU: 1}, gangs=True)
    lease = lifecycle.claim(db, worker=f"{worker}/1", seconds=600, offer=offer)
    assert lease is not None
    if step is not None:
        reached(db, lease, step)
    return lease


def test_room_is_made_for_a_gang_on_all_its_workers(db: Database) -> None:
    """By a request to each of them at once; what becomes free first is kept until the last of them has room."""
    able(db, "a", "b")
    submit(db, "ftjob-1")
    submit(db, "ftjob-2")
    leases = [claimed(db, "a"), claimed(db, "b")]
    submit(db, "ftjob-gang", 5, devices=2, machines=2)
    assert sorted(make_room(db, EQUAL, most=3)) == ["ftjob-1", "ftjob-2"]
    assert make_room(db, EQUAL, most=3) == []
    assert [lifecycle.beat(db, lease) for lease in leases] == ["yield", "yield"]
    assert says(db, "ftjob-gang") == "the end of ftjob-1, ftjob-2, which makes room for it"

    lifecycle.release(db, leases[0])
    assert lifecycle.claim(db, worker="a/2", seconds=600, offer=Offer(gangs=True)) is None
    lifecycle.release(db, leases[1])
    lease = claimed(db, "b")
    assert (lease.job_id, lease.machines) == ("ftjob-gang", 2)


@pytest.mark.parametrize("reason", ["no step yet", "another version", "priority", "alone"])
def test_nothing_is_stopped_for_a_gang_that_would_still_lack_a_place(db: Database, reason: str) -> None:
    """Whatever it is that one of the two workers cannot give."""
    able(db, "a", "b")
    submit(db, "ftjob-1")
    submit(db, "ftjob-2", 9 if reason == "priority" else 0)
    claimed(db, "a")
    claimed(db, "b", step=0 if reason == "no step yet" else 1)
    if reason == "another version":
        able(db, "b", code="other")
    elif reason == "alone":
        workers.remove(db, "b")
    submit(db, "ftjob-gang", 5, devices=2, machines=2)
    assert make_room(db, EQUAL, most=3) == []


def test_a_gang_that_cannot_form_is_passed_over(db: Database) -> None:
    """Room is made for the job behind it, which the worker that becomes free then takes."""
    submit(db, "ftjob-low")
    lease = started(db)
    submit(db, "ftjob-gang", 9, devices=2, machines=2)
    submit(db, "ftjob-high", 5)
    assert make_room(db, EQUAL, most=3) == ["ftjob-low"]
    lifecycle.release(db, lease)
    assert started(db).job_id == "ftjob-high"


@pytest.mark.parametrize("machines", [1, 2])
def test_a_gang_makes_room_as_a_whole(db: Database, machines: int) -> None:
    """For one job on any of its workers, or for another gang; then its members see that the attempt has ended."""
    workers.remove(db, "w")
    able(db, "a", "b")
    submit(db, "ftjob-gang", devices=2, machines=2)
    lease = claimed(db, "a", step=None)
    place = gang_rows.invitation(db, "b")
    assert place is not None and gang_rows.join(db, place, seconds=600)
    submit(db, "ftjob-high", 5, devices=machines, machines=machines)
    assert make_room(db, EQUAL, most=3) == []  # it has made no step yet
    reached(db, lease, 1)
    assert make_room(db, EQUAL, most=3) == ["ftjob-gang"]
    assert lifecycle.beat(db, lease) == "yield"
    assert lifecycle.release(db, lease) == "queued" and gang_rows.gone(db, place)
    assert claimed(db, "b").job_id == "ftjob-high"


def test_devices_of_several_kinds_are_not_freed_for_a_gang(db: Database) -> None:
    """Rows do not say which of a worker's devices a job has, and a gang needs one product everywhere."""
    workers.remove(db, "w")
    able(db, "a")
    products = {CPU: 1, "H100": 1}
    workers.register(db, "b", devices=1, kind=CPU, products=products, gang_address="127.0.0.1", code="c")
    submit(db, "ftjob-1")
    claimed(db, "b")
    submit(db, "ftjob-gang", 5, devices=2, machines=2)
    assert make_room(db, EQUAL, most=3) == []


def test_nothing_is_stopped_for_what_changed_meanwhile(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting job is cancelled, or the running one given back, between the choice and the request."""
    from app.jobs.queue import making_room

    submit(db, "ftjob-low")
    lease = started(db)
    submit(db, "ftjob-high", 5)
    with db.read() as session:
        chosen = making_room._choose(session, EQUAL, job_time(db), 3)
    monkeypatch.setattr(making_room, "_choose", lambda *_: chosen)
    lifecycle.release(db, lease)
    assert make_room(db, EQUAL, most=3) == []
    lifecycle.cancel(db, "default", "ftjob-high")
    assert make_room(db, EQUAL, most=3) == []


def job_time(db: Database) -> Any:
    from app.db import now

    with db.read() as session:
        return now(session)
