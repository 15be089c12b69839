"""Which job a worker gets, on both databases."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import event, text

from app.db import Database, now
from app.jobs.queue import claims, lifecycle, usage, workers
from app.jobs.queue.attempt import AttemptUpdates, Lease
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.tables import Job, ProjectUsage
from app.jobs.queue.waiting import queue_positions
from tests.app.jobs.jobs import new_job
from tests.app.jobs.plans import crowd, plan_of
from tests.worker.supervisor.jobs import eventually

ONE = Offer({CPU: 1}, {CPU: 1})


def submitted(db: Database, project: str, count: int = 1, **fields: object) -> None:
    for _ in range(count):
        lifecycle.submit(db, new_job(project=project, **fields))


def taken(db: Database, count: int, *, shares: ProjectShares | None = None) -> list[str]:
    """The projects of the next jobs."""
    projects = []
    for number in range(count):
        lease = lifecycle.claim(db, worker=f"w/{number}", seconds=60, shares=shares or ProjectShares())
        assert lease is not None
        with db.read() as session:
            projects.append(session.get_one(Job, lease.job_id).project)
    return projects


@contextmanager
def counted(db: Database, asked: list[str]) -> Iterator[None]:
    """Notes the statements of write transactions."""

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    yield
    event.remove(db.engine, "before_cursor_execute", note)


def test_a_long_queue_of_one_project_does_not_stand_before_others(db: Database) -> None:
    """The project with the least goes first, and of equals the one whose job waits longest."""
    submitted(db, "large", 5)
    submitted(db, "small", 2)
    order = taken(db, 7)
    assert order[:2] == ["large", "small"] and Counter(order[:4]) == {"large": 2, "small": 2}


def test_a_claim_asks_the_database_few_times(db: Database) -> None:
    """Time, heads, job, project, and what it writes: with each question more, claims wait longer for each other."""
    submitted(db, "a", 3)
    taken(db, 1)
    asked: list[str] = []
    with counted(db, asked):
        assert taken(db, 1) == ["a"]
    assert len([each for each in asked if each.startswith(("SELECT", "WITH", "INSERT", "UPDATE"))]) <= 9, asked


def test_weights(db: Database) -> None:
    """Twice the weight, twice the devices; `*` is the weight of all others."""
    submitted(db, "a", 6)
    submitted(db, "b", 6)
    assert Counter(taken(db, 6, shares=ProjectShares({"b": 1.0, "*": 2.0}))) == {"a": 4, "b": 2}


def test_what_was_used_before_counts(db: Database) -> None:
    """One device after the other: of two projects the one that had less goes first, although its job is newer."""
    submitted(db, "a", 1)
    submitted(db, "b", 1)
    with db.write() as session:
        at = now(session)
        session.add(ProjectUsage(project="a", running=0, smoothed=1.0, at=at))
    assert taken(db, 2) == ["b", "a"]


def test_priority_counts_inside_a_project_alone(db: Database) -> None:
    """A hundred points of priority do not put a project's second job before another's first."""
    submitted(db, "a", 2, priority=100)
    submitted(db, "b", 1, priority=-100)
    assert taken(db, 3) == ["a", "b", "a"]


def test_claims_at_once_keep_the_shares(db: Database) -> None:
    """Threads that look at the same queue in the same moment do not all take from one project."""
    shares = ProjectShares({"a": 2.0})
    for project, count in (("a", 16), ("b", 16)):
        submitted(db, project, count)
    start = threading.Barrier(6)
    leases: list[Lease | None] = []

    def claim(number: int) -> None:
        start.wait()
        leases.extend(lifecycle.claim(db, worker=f"w{number}/{turn}", seconds=60, shares=shares) for turn in range(2))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = {lease.job_id for lease in leases if lease}
    assert len(found) == len([lease for lease in leases if lease])
    with db.read() as session:
        running = {row.project: row.running for row in session.query(ProjectUsage)}
    # A claim that looked as often as it may takes what it found: one or two may be beside their share.
    assert sum(running.values()) == len(found) and abs(running["a"] - 2 * running["b"]) <= 6


@contextmanager
def another_claim(db: Database, project: str) -> Iterator[None]:
    """The rest of the block runs while another transaction is at this project's usage."""
    with db.write() as session:
        usage.lock(session, project)
        yield


def test_a_claim_passes_the_project_of_another_claim(postgres_with_tables: str) -> None:
    """With that claim's job, `b` is behind `a`: a claim that waited for it would look again, and then take `a`."""
    with closing(Database(postgres_with_tables)) as db:
        submitted(db, "a", 2)
        submitted(db, "b", 2)
        assert taken(db, 2) == ["a", "b"]  # `a` has been running longer, so `b` is the next
        with another_claim(db, "b"):
            assert taken(db, 1) == ["a"]


def test_a_claim_waits_for_a_project_that_stays_the_next(postgres_with_tables: str) -> None:
    """`a` has nine times the weight: with one job more it still is before `b`, whose turn it is not."""
    shares = ProjectShares({"a": 9.0})
    with closing(Database(postgres_with_tables)) as db:
        submitted(db, "a", 2)
        submitted(db, "b", 2)
        assert taken(db, 2, shares=shares) == ["a", "b"]
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(taken(db, 1, shares=shares)))
        with another_claim(db, "a"):
            thread.start()
            eventually(lambda: _waiting(db) == 1)
        thread.join()
        assert found == ["a"]


def test_a_claim_waits_where_every_project_is_passed(postgres_with_tables: str) -> None:
    """There are other claims at both; the next one is known when the first of them has ended."""
    with closing(Database(postgres_with_tables)) as db:
        submitted(db, "a", 2)
        submitted(db, "b", 2)
        assert taken(db, 2) == ["a", "b"]
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(taken(db, 1)))
        with another_claim(db, "a"), another_claim(db, "b"):
            thread.start()
            eventually(lambda: _waiting(db) == 1)
        thread.join()
        assert found == ["b"]


def _waiting(db: Database) -> int:
    """Sessions that wait for a lock."""
    with db.read() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return int(session.scalar(text(query)) or 0)


def claimed(db: Database, worker: str, free: int, shares: ProjectShares | None = None) -> str | None:
    """The job that a worker with four devices gets while so many are free."""
    offer = Offer({CPU: 4}, {CPU: free})
    lease = lifecycle.claim(db, worker=f"{worker}/1", seconds=60, offer=offer, shares=shares or ProjectShares())
    return lease.job_id if lease else None


def test_a_project_has_no_more_devices_than_its_limit(db: Database) -> None:
    """Others go on; a job that is larger than the limit holds up nobody, and an end makes room."""
    shares = ProjectShares(limits={"small": 2, "*": 9})
    submitted(db, "small", 1, id="ftjob-huge", devices=3)
    submitted(db, "small", 1, id="ftjob-1", devices=2)
    submitted(db, "small", 1, id="ftjob-2")
    submitted(db, "other", 1, id="ftjob-3")
    assert [claimed(db, f"w{number}", 4, shares) for number in range(3)] == ["ftjob-1", "ftjob-3", None]
    lifecycle.cancel(db, "small", "ftjob-1")
    assert claimed(db, "w", 4, shares) == "ftjob-2"


def test_a_limit_holds_for_claims_at_once(db: Database) -> None:
    """Each looks at the row again once it is locked."""
    submitted(db, "a", 12)
    start = threading.Barrier(6)

    def claim(number: int) -> None:
        start.wait()
        claimed(db, f"w{number}", 4, ProjectShares(limits={"a": 3}))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.read() as session:
        assert session.get_one(ProjectUsage, "a").running == 3


def test_one_worker_keeps_devices_for_a_large_job_and_others_go_on(db: Database) -> None:
    """The one that will have room first; there, what ends in time may run, and what nobody knows may not."""
    for name in ("near", "far"):
        workers.register(db, name, devices=4, kind="cpu")
    for name, seconds in (("near", 100), ("far", 900)):
        submitted(db, "a", 1, devices=4)
        lease = lifecycle.claim(db, worker=f"{name}/0", seconds=600, offer=Offer({CPU: 4}, {CPU: 4}))
        assert lease is not None
        lifecycle.beat(db, lease, AttemptUpdates(progress={"eta_seconds": seconds}))
        with db.write() as session:  # half of its devices are free, as after a smaller job
            session.get_one(Job, lease.job_id).devices = 2
    submitted(db, "a", 1, id="ftjob-large", devices=4)
    submitted(db, "a", 1, id="ftjob-unknown")
    submitted(db, "a", 1, id="ftjob-long", hyperparameters={"max_run_seconds": 200})
    assert claimed(db, "near", 2) is None
    with db.read() as session:
        (position,) = queue_positions(session, "a", [session.get_one(Job, "ftjob-large")]).values()
    assert position.waiting_for == "4 devices at once: near keeps those that become free for it"
    assert claimed(db, "far", 2) == "ftjob-unknown"
    submitted(db, "b", 1, id="ftjob-short", hyperparameters={"max_run_seconds": 50})
    assert claimed(db, "near", 2) == "ftjob-short"
    assert claimed(db, "near", 1) is None
    assert claimed(db, "near", 4) == "ftjob-large"


def test_a_claim_reads_the_index_of_the_queue(db: Database) -> None:
    """One row of each project, however many of them wait."""
    submitted(db, "a")
    submitted(db, "b")
    crowd(db)
    plan = plan_of(db, lambda session: claims.heads(session, ONE, ProjectShares(), now(session)))
    assert "ix_jobs_queue" in plan and "TEMP B-TREE" not in plan and "Sort" not in plan, plan
