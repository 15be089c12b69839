"""What the leader of a gang makes of its members' rows."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.db import now
from app.jobs.queue import gang_rows, lifecycle, workers
from app.jobs.queue.attempt import Lease
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.tables import GangMember, Worker
from app.storage.blobs import Storage
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import job_of, submit
from worker.protocol import EXIT_DEVICE_LOST, EXIT_DONE, EXIT_FAILED, EXIT_NO_ROOM, EXIT_SIGNALLED, EXIT_STOPPED
from worker.supervisor.gang import leader as module
from worker.supervisor.gang.address import GangAddress
from worker.supervisor.gang.leader import Leader, MemberDeviceLost, MemberLost, NotFormed
from worker.supervisor.gang.plan import MemberOutcome
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.outcomes import DiskFull, TrainerCrashed, TrainerRefused, TrainerStopped
from worker.supervisor.reports import ReportReader


@pytest.fixture
def lease(deployment: Deployment) -> Lease:
    """Of a job on two machines, whose other worker is invited."""
    submit(deployment, devices=2, machines=2)
    for name in ("a", "b"):
        workers.register(deployment.db, name, devices=1, kind=CPU, products={CPU: 1}, gang_address="x", code="c")
    found = lifecycle.claim(deployment.db, worker="a/1", seconds=60, offer=Offer(gangs=True))
    assert found is not None
    return found


@pytest.fixture
def leader(deployment: Deployment, lease: Lease) -> Iterator[Leader]:
    with LeaseKeeper(deployment.db, lease, heartbeat=10.0) as keeper:
        address = GangAddress("127.0.0.2", "lo")
        yield Leader(deployment.db, Storage(deployment.settings.storage), address, keeper, threading.Event())


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.3)
    monkeypatch.setattr(module, "WORD_SECONDS", 0.3)


@pytest.fixture
def reports(tmp_path: Path) -> ReportReader:
    return ReportReader(tmp_path / "reports.jsonl")


def ended(deployment: Deployment, outcome: MemberOutcome) -> None:
    place = gang_rows.invitation(deployment.db, "b")
    assert place is not None and gang_rows.join(deployment.db, place, seconds=60)
    assert gang_rows.end(deployment.db, place, outcome.to_json())


def test_a_gang_that_does_not_come_together(deployment: Deployment, leader: Leader) -> None:
    """The worker that did not answer is not waited for again until it says that it is alive."""
    with pytest.raises(NotFormed, match="b did not answer"):
        leader.call_up()
    with deployment.db.read() as session:
        assert session.scalars(select(Worker.id)).all() == ["a"]


def test_how_long_a_gang_took_to_form_is_counted(deployment: Deployment, leader: Leader, lease: Lease) -> None:
    """From the claim until the last member has taken its place."""
    place = gang_rows.invitation(deployment.db, "b")
    assert place is not None and gang_rows.join(deployment.db, place, seconds=60)
    leader.call_up()
    leader.keeper.flush()
    job = job_of(deployment.db, lease.job_id)
    assert job.gangs == 1 and job.forming_seconds >= 0


def test_a_stop_is_heard_while_the_gang_forms(leader: Leader) -> None:
    """The worker is shutting down: the job goes back at once."""
    leader.stopping.set()
    with pytest.raises(TrainerStopped):
        leader.call_up()


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (MemberOutcome(EXIT_FAILED, {"message": "line 7 is no JSON", "code": "invalid_data"}), TrainerRefused),
        (MemberOutcome(EXIT_NO_ROOM), DiskFull),
        (MemberOutcome(EXIT_DEVICE_LOST), MemberDeviceLost),
        (MemberOutcome(error="no room"), TrainerCrashed),
        (MemberOutcome(EXIT_FAILED), TrainerCrashed),
        (MemberOutcome(EXIT_SIGNALLED + 9), TrainerCrashed),
        (MemberOutcome(EXIT_STOPPED), TrainerStopped),
    ],
)
def test_a_members_word_explains_the_broken_connection(
    deployment: Deployment, leader: Leader, reports: ReportReader, outcome: MemberOutcome, expected: type[Exception]
) -> None:
    """The leader's own trainer only saw that the others were gone."""
    ended(deployment, outcome)
    with pytest.raises(expected):
        leader.explain(EXIT_FAILED, reports)


def test_what_the_leader_knows_itself_goes_first(deployment: Deployment, leader: Leader, reports: ReportReader) -> None:
    """Its own report, signal, full disk or request to stop; and an attempt that ended well needs no explanation."""
    ended(deployment, MemberOutcome(EXIT_FAILED))
    for code in (EXIT_DONE, EXIT_STOPPED, EXIT_NO_ROOM, EXIT_DEVICE_LOST, EXIT_SIGNALLED + 9, -9):
        leader.explain(code, reports)
    reports.failed = {"message": "its own"}
    leader.explain(EXIT_FAILED, reports)


def test_a_member_without_a_word_stopped_answering(
    deployment: Deployment, leader: Leader, reports: ReportReader
) -> None:
    """Its worker was killed, say: its lease may last for a while, the job does not wait for that."""
    with pytest.raises(MemberLost, match="b of the gang stopped answering"):
        leader.explain(EXIT_FAILED, reports)


def test_a_member_whose_lease_has_run_out_breaks_the_gang(
    deployment: Deployment, leader: Leader, reports: ReportReader
) -> None:
    """The leader's trainer may hang in an exchange with it: it is ended."""
    assert not leader.broken()
    with deployment.db.write() as session:
        late = now(session) - timedelta(seconds=1)
        session.execute(update(GangMember).where(GangMember.rank == 1).values(lease_until=late))
    leader._looked_at = float("-inf")
    assert leader.broken()
    with pytest.raises(MemberLost, match="b of the gang stopped answering"):
        leader.explain(-9, reports)


def test_a_member_that_ended_well_breaks_nothing(deployment: Deployment, leader: Leader) -> None:
    """Its part is done before the leader's, which exports for all."""
    ended(deployment, MemberOutcome(EXIT_DONE))
    assert not leader.broken()
