"""Places of workers in an attempt on several machines, and claims that make them, on both databases."""

import threading
from datetime import timedelta
from typing import Final

import pytest
from sqlalchemy import bindparam, func, select, text, update

from app.db import Database, UtcDateTime, now
from app.jobs import views
from app.jobs.queue import gang_rows, lifecycle, workers
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.gang_rows import GangPlace, PlaceLost
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.tables import GangMember, Job, ProjectUsage, Worker
from tests.app.jobs.jobs import new_job


def alive(db: Database, *names: str, devices: int = 1, code: str = "c") -> None:
    for name in names:
        found = {CPU: devices}
        workers.register(db, name, devices=devices, kind=CPU, products=found, gang_address="127.0.0.1", code=code)


def offer(free: int = 1, devices: int = 1) -> Offer:
    return Offer({CPU: devices}, {CPU: free}, gangs=True)


def submitted(db: Database, **fields: object) -> str:
    return lifecycle.submit(db, new_job(**({"devices": 2, "machines": 2} | fields)))[0].id


def claimed(db: Database, worker: str, *, free: int = 1, devices: int = 1) -> Lease | None:
    return lifecycle.claim(db, worker=f"{worker}/1", seconds=60, offer=offer(free, devices))


def places(db: Database) -> list[GangMember]:
    with db.read() as session:
        return list(session.scalars(select(GangMember).order_by(GangMember.job_id, GangMember.rank)))


def invited(db: Database, worker: str) -> GangPlace:
    found = gang_rows.invitation(db, worker)
    assert found is not None
    return found


def waiting_for(db: Database, job_id: str) -> str | None:
    with db.read() as session:
        return views.read(session, "default", job_id)[0].waiting_for


def test_all_places_are_made_at_once(db: Database) -> None:
    """The worker that claims leads and needs its own share of the devices; the project uses all of them."""
    job_id = submitted(db)
    alive(db, "a", "b")
    lease = claimed(db, "b")
    assert lease is not None and (lease.job_id, lease.devices, lease.machines, lease.device) == (job_id, 1, 2, CPU)
    assert [(place.worker, place.state) for place in places(db)] == [("b", "joined"), ("a", "invited")]
    assert invited(db, "a") == GangPlace(job_id, 1, 1, 2, 1, CPU)
    assert gang_rows.invitation(db, "b") is None
    with db.read() as session:
        assert session.get_one(ProjectUsage, "default").running == 2


def test_no_place_is_made_before_there_is_room_for_all(db: Database) -> None:
    """A worker alone keeps its device, and says for which job; a job behind it does not take it."""
    job_id = submitted(db)
    small, _ = lifecycle.submit(db, new_job())
    alive(db, "a")
    assert "of the workers alive, 1 can" in (waiting_for(db, job_id) or "")
    first = claimed(db, "a")  # no gang could form, so nothing is kept
    assert first is not None and first.job_id == small.id

    alive(db, "b")
    lifecycle.submit(db, new_job())
    assert waiting_for(db, job_id) == "2 devices at once: a and b keep those that become free"
    assert claimed(db, "b") is None and places(db) == []
    lifecycle.release(db, first)
    lease = claimed(db, "b")
    assert lease is not None and lease.job_id == job_id


def test_behind_a_gang_that_cannot_form_devices_are_kept_as_before_it(db: Database) -> None:
    """Nothing waits for it: the large job behind it is the first of its project, and no small one passes that."""
    submitted(db)
    large, _ = lifecycle.submit(db, new_job(devices=2))
    lifecycle.submit(db, new_job())
    alive(db, "a", devices=2)
    assert claimed(db, "a", free=1, devices=2) is None
    lease = claimed(db, "a", free=2, devices=2)
    assert lease is not None and lease.job_id == large.id


def test_workers_that_join_no_gang_leave_it_alone(db: Database) -> None:
    """As those of the version before, which do not know of it."""
    submitted(db)
    alive(db, "a", "b")
    assert lifecycle.claim(db, worker="a/1", seconds=60, offer=Offer({CPU: 2}, {CPU: 2})) is None


#: How a worker finds its next job, of versions that know no gangs: with tables of revision 0008, and of 0025.
OLDER_CLAIMS: Final = {
    "0008": """
        SELECT id FROM jobs WHERE status IN ('queued', 'validating_files') AND desired = 'run'
        AND (not_before IS NULL OR not_before <= :at) AND devices <= 8 ORDER BY urgency, created_at, id LIMIT 1
        """,
    "0025": """
        SELECT id FROM jobs WHERE status IN ('queued', 'validating_files') AND desired = 'run'
        AND (not_before IS NULL OR not_before <= :at) AND project = 'default' AND devices <= 2147483647
        AND (device IS NULL AND devices <= 8 OR 'cpu' LIKE '%' || lower(device) || '%' AND devices <= 8)
        ORDER BY queue_time, id LIMIT 1
        """,
}


@pytest.mark.parametrize("version", OLDER_CLAIMS)
def test_workers_of_versions_before_gangs_do_not_find_them(db: Database, version: str) -> None:
    """A worker that trained one alone would train something else; it takes the jobs behind, and this one waits.

    Also after a pause, and after an attempt that ended in whatever way.
    """

    def found() -> str | None:
        with db.read() as session:
            at = bindparam("at", now(session) + timedelta(minutes=2), type_=UtcDateTime)
            return session.scalar(text(OLDER_CLAIMS[version]).bindparams(at))

    job_id = submitted(db)
    assert found() is None
    alive(db, "a", "b")
    small, _ = lifecycle.submit(db, new_job())
    assert found() == small.id
    lifecycle.cancel(db, "default", small.id)

    lifecycle.pause(db, "default", job_id)
    lifecycle.resume(db, "default", job_id)
    for end in (lifecycle.release, lambda db, lease: lifecycle.crash(db, lease, "killed", limit=9)):
        lease = claimed(db, "a")
        assert lease is not None and lifecycle.beat(db, lease) == "run"
        assert end(db, lease) == "queued" and found() is None
        with db.write() as session:
            session.execute(update(Job).values(not_before=None))


def test_two_gangs_never_hold_half_each(db: Database) -> None:
    """Of two jobs on two machines each, claimed by two workers at the same moment, one gets both of them."""
    submitted(db)
    submitted(db)
    alive(db, "a", "b")
    start = threading.Barrier(2)
    leases: list[Lease | None] = []

    def claim(worker: str) -> None:
        start.wait()
        leases.append(claimed(db, worker))

    threads = [threading.Thread(target=claim, args=(worker,)) for worker in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [lease for lease in leases if lease]
    assert len(found) == 1
    assert [place.job_id for place in places(db)] == [found[0].job_id] * 2


def test_a_member_joins_beats_and_ends(db: Database) -> None:
    """It hears the leader's plan once there is one, and the leader hears how it ended."""
    submitted(db)
    alive(db, "a", "b")
    lease = claimed(db, "a")
    assert lease is not None
    place = invited(db, "b")
    assert gang_rows.join(db, place, seconds=60) and not gang_rows.join(db, place, seconds=60)
    assert gang_rows.beat(db, place, seconds=60) is None

    gang_rows.publish(db, lease, {"endpoint": "127.0.0.1:1"})
    assert gang_rows.beat(db, place, seconds=60, state="ready") == {"endpoint": "127.0.0.1:1"}
    (member,) = gang_rows.members(db, lease)
    assert (member.rank, member.worker, member.state, member.alive) == (1, "b", "ready", True)
    assert gang_rows.end(db, place, {"code": 73})
    assert gang_rows.members(db, lease)[0].outcome == {"code": 73}


@pytest.mark.parametrize("ending", ["cancel", "crash", "postpone", "pause", "recover"])
def test_members_see_that_the_attempt_has_ended(db: Database, ending: str) -> None:
    """However it ended: their places are gone, and nothing that they write matches a row."""
    job_id = submitted(db)
    alive(db, "a", "b")
    lease = claimed(db, "a")
    assert lease is not None
    place = invited(db, "b")
    assert gang_rows.join(db, place, seconds=60)
    if ending == "cancel":
        lifecycle.cancel(db, "default", job_id)
    elif ending == "crash":
        lifecycle.crash(db, lease, "killed", limit=3)
    elif ending == "postpone":
        assert lifecycle.postpone(db, lease, "b did not come") == "queued"
    elif ending == "pause":
        assert lifecycle.pause_attempt(db, lease, "full") == "paused"
    else:
        with db.write() as session:
            session.execute(update(Job).values(lease_until=now(session)))
        with pytest.raises(PlaceLost):  # the leader is late: nobody goes on without it
            gang_rows.beat(db, place, seconds=60)
        lifecycle.recover(db, limit=3)
    assert gang_rows.gone(db, place) and not gang_rows.end(db, place, {"code": 0})
    with pytest.raises(PlaceLost):
        gang_rows.beat(db, place, seconds=60)
    if ending != "cancel":
        with pytest.raises(LeaseLost):
            gang_rows.publish(db, lease, {})
    with db.read() as session:
        assert session.get_one(ProjectUsage, "default").running == 0
        assert session.get_one(Job, job_id).crashes == (ending in ("crash", "recover"))


def test_attempts_that_end_without_a_member_are_counted(db: Database) -> None:
    """Whether it never came, or was lost later; a crash of another kind is none of them. So are gangs that formed."""
    job_id = submitted(db)
    alive(db, "a", "b")
    for end in (
        lambda lease: lifecycle.postpone(db, lease, "b did not come"),
        lambda lease: lifecycle.crash(db, lease, "b stopped answering", limit=9, member_lost=True),
        lambda lease: lifecycle.crash(db, lease, "killed by signal 9", limit=9),
    ):
        lease = claimed(db, "a")
        assert lease is not None
        lifecycle.beat(db, lease, AttemptUpdates(formed_in=1.5))
        end(lease)
        with db.write() as session:
            session.execute(update(Job).values(not_before=None))
    with db.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.lost_members, job.crashes, job.gangs, job.forming_seconds) == (2, 2, 3, 4.5)


def test_a_member_that_is_not_heard_of_is_seen(db: Database) -> None:
    """By the database's clock alone; it is taken to be gone until it registers again."""
    submitted(db)
    alive(db, "a", "b")
    lease = claimed(db, "a")
    assert lease is not None
    place = invited(db, "b")
    with db.write() as session:
        session.execute(update(GangMember).values(lease_until=now(session) - timedelta(seconds=1)))
    assert gang_rows.invitation(db, "b") is None and not gang_rows.join(db, place, seconds=60)
    assert [each.alive for each in gang_rows.members(db, lease)] == [False]
    gang_rows.forget_workers(db, ["b"])
    with db.read() as session:
        assert session.scalars(select(Worker.id)).all() == ["a"]


def test_limits_of_projects_count_all_machines(db: Database) -> None:
    """A project that may use one device runs no job on two machines."""
    submitted(db)
    alive(db, "a", "b")
    shares = ProjectShares(limits={"*": 1})
    assert lifecycle.claim(db, worker="a/1", seconds=60, offer=offer(), shares=shares) is None


def test_what_a_gang_uses_is_counted_on_each_of_its_workers(db: Database) -> None:
    """A second gang does not count on devices that the first one has."""
    submitted(db)
    second = submitted(db)
    alive(db, "a", "b", "c", devices=2)
    lease = claimed(db, "a", free=2, devices=2)
    assert lease is not None
    assert claimed(db, "b", free=2, devices=2) is None  # it is invited, and has not answered yet
    assert gang_rows.join(db, invited(db, "b"), seconds=60)
    other = claimed(db, "c", free=2, devices=2)
    assert other is not None and other.job_id == second
    with db.read() as session:
        counts = dict(session.execute(select(GangMember.worker, func.sum(GangMember.devices)).group_by("worker")).all())
    assert counts["c"] == 1 and sum(counts.values()) == 4
