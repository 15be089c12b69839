"""A job on two machines: both train it, one signs; and a member that cannot take part says why."""

import errno
import os
import threading
from typing import Any

import pytest
from sqlalchemy import select

from app.evidence.tables import Evidence
from app.jobs.queue import gang_rows, lifecycle, making_room, preemption
from app.jobs.queue.fair_share import EQUAL
from app.jobs.queue.tables import Checkpoint, GangMember
from app.logs import queries
from app.storage.blobs import Storage
from tests.patience import PATIENCE
from tests.worker.processes import of_job
from tests.worker.supervisor.gang.pairs import LONG, Pair
from tests.worker.supervisor.jobs import events_of, eventually, job_of, submit, succeeded
from worker.protocol import Workspace
from worker.supervisor import attempt_folder
from worker.supervisor.devices import Slots, find_devices
from worker.supervisor.gang import member, travelling
from worker.supervisor.gang.plan import TravellingCheckpoint
from worker.supervisor.staging import Staging

pytestmark = pytest.mark.slow


def evidence_of(pair: Pair, job_id: str) -> Evidence:
    with pair.deployment.db.read() as session:
        return session.get_one(Evidence, job_id)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_machines_train_one_job(pair: Pair, strategy: str) -> None:
    """The result has the bits of two devices of one machine, and is proved alike."""
    job_id = pair.submit(strategy=strategy)
    with pair:
        job = succeeded(pair.deployment, job_id)
    assert (job.attempt, job.crashes) == (1, 0)
    assert any(each.message == "Gang of 2 machines formed" for each in events_of(pair.deployment.db, job_id))
    ours = evidence_of(pair, job_id)
    assert ours.verdict == "verified"

    with pair.deployment.db.read() as session:
        assert session.scalars(select(GangMember)).all() == []
    for runner in pair.runners:
        assert not list(runner.settings.work.glob("ftjob-*"))
        assert runner.slots.free == 1

    alone = pair.runners[0]
    alone.stopping.clear()
    alone.slots = Slots(find_devices("cpu:2"))
    same = submit(pair.deployment, devices=2, strategy=strategy)
    assert alone.run_next()
    succeeded(pair.deployment, same)
    assert evidence_of(pair, same).result_root == ours.result_root


def story(pair: Pair, job_id: str) -> str:
    return "\n".join(f"{each.message} {each.data or ''}" for each in events_of(pair.deployment.db, job_id))


def training(pair: Pair, job_id: str, *, step: int) -> None:
    eventually(
        lambda: ((job_of(pair.deployment.db, job_id).progress or {}).get("step") or 0) >= step,
        says=lambda: story(pair, job_id),
    )


def ended_as(pair: Pair, job_id: str, *statuses: str) -> None:
    eventually(lambda: job_of(pair.deployment.db, job_id).status in statuses, says=lambda: story(pair, job_id))


ROWS = {
    "rules": [
        {"id": "rows", "action": "train", "select": {"name": "weight", "rows": [[0, 2]]}},
        {"id": "rest", "action": "freeze", "select": {"name": "weight"}},
    ]
}


def test_what_cannot_be_sharded_is_refused_by_name(pair: Pair) -> None:
    """Trainable rows with fsdp: once, before the first step, on all machines."""
    job_id = pair.submit(strategy="fsdp", policy=ROWS)
    with pair:
        ended_as(pair, job_id, "failed")
    job = job_of(pair.deployment.db, job_id)
    assert (job.attempt, job.crashes) == (1, 0)
    assert "'weight' is partly frozen, and fsdp cuts its rows by another rule" in (job.error or {})["message"]


def test_what_each_machine_prints_is_in_the_log(pair: Pair) -> None:
    """A member's lines name its machine; here what its rank says of a signal that ended it."""
    job_id = pair.submit(hyperparameters=LONG | {"n_epochs": 100_000}, retries=0)
    with pair:
        training(pair, job_id, step=1)
        of_rank(job_id, 1)[-1].kill()
        ended_as(pair, job_id, "failed")
        eventually(lambda: any(line.startswith("[machine 1] ") for line in log(pair, job_id)))
    assert "[machine 1] rank 1 was ended by signal 9" in log(pair, job_id)


def log(pair: Pair, job_id: str) -> list[str]:
    with pair.deployment.db.read() as session:
        return [line.text for line in queries.read(session, job_id)]


def of_rank(job_id: str, rank: int) -> list[Any]:
    """The processes of one machine of a gang: the agent first, then its ranks."""
    folder = f"rank-{rank}/" if rank else "/a"
    return [each for each in of_job(job_id) if f"{job_id}/{folder}" in each.cwd() + "/"]


@pytest.mark.slow
@pytest.mark.chaos
def test_killed_rank_of_a_member_counts_one_crash(pair: Pair) -> None:
    """All machines stop, and the next gang goes on from the checkpoint to the same bits."""
    undisturbed = pair.submit(hyperparameters=LONG)
    with pair:
        succeeded(pair.deployment, undisturbed)
        job_id = pair.submit(hyperparameters=LONG)
        training(pair, job_id, step=20)
        of_rank(job_id, 1)[-1].kill()
        job = succeeded(pair.deployment, job_id)
    assert (job.crashes, job.attempt) == (1, 2)
    assert "goes on after step" in story(pair, job_id)
    assert evidence_of(pair, job_id).result_root == evidence_of(pair, undisturbed).result_root


def test_pause_resume_and_cancel_reach_every_machine(pair: Pair) -> None:
    """A pause leaves one checkpoint, of the step at which all stopped, in the storage; a cancel leaves no process."""
    job_id = pair.submit(hyperparameters=LONG | {"n_epochs": 100_000, "checkpoint_steps": 450_000})
    db = pair.deployment.db
    with pair:
        training(pair, job_id, step=1)
        lifecycle.pause(db, "default", job_id)
        ended_as(pair, job_id, "paused")
        with db.read() as session:
            assert len(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)).all()) == 1
        lifecycle.resume(db, "default", job_id)
        eventually(lambda: "goes on after step" in story(pair, job_id), says=lambda: story(pair, job_id))
        lifecycle.cancel(db, "default", job_id)
        eventually(lambda: not of_job(job_id))
        eventually(lambda: all(runner.slots.free == 1 for runner in pair.runners))


def test_a_gang_makes_room_for_another(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saves its state on all machines, goes on when they are free again, and ends as if it had been left alone."""
    monkeypatch.setattr(preemption, "SOON", 0.0)  # this job ends within a minute
    db = pair.deployment.db
    undisturbed = pair.submit(hyperparameters=LONG)
    with pair:
        succeeded(pair.deployment, undisturbed)
        job_id = pair.submit(hyperparameters=LONG)
        training(pair, job_id, step=20)
        urgent = pair.submit(priority=1)
        # A row that its own worker is writing at this moment is left for the next round.
        assert eventually(lambda: making_room.make_room(db, EQUAL, most=1)) == [job_id]
        first, job = succeeded(pair.deployment, urgent), succeeded(pair.deployment, job_id)
    assert first.finished_at is not None and job.finished_at is not None and first.finished_at < job.finished_at
    assert (job.attempt, job.crashes, job.preemptions) == (2, 0, 1)
    assert evidence_of(pair, job_id).result_root == evidence_of(pair, undisturbed).result_root


def test_a_member_that_stops_has_all_stop(pair: Pair) -> None:
    """As any worker that is stopped: the state is saved, the job goes back into the queue, no retry is spent."""
    job_id = pair.submit(hyperparameters=LONG | {"n_epochs": 100_000})
    with pair:
        training(pair, job_id, step=1)
        with pair.deployment.db.read() as session:
            of_job_ = select(GangMember.worker).where(GangMember.job_id == job_id, GangMember.rank == 1)
            name = session.scalars(of_job_).one()
        next(runner for runner in pair.runners if runner.worker == name).stopping.set()
        ended_as(pair, job_id, "queued")
    job = job_of(pair.deployment.db, job_id)
    assert (job.crashes, job.attempt) == (0, 1)
    assert (job.progress or {})["step"] >= 1


def test_another_base_is_refused_before_training(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that differs on one machine, in whatever way it came there: the job ends with the worker's name."""
    real = Staging.base

    def changed(staging: Staging, **options: Any) -> Any:
        base = real(staging, **options)
        if "rank-1" in str(staging.workspace.root):
            path = staging.workspace.base / "model.safetensors"
            content = bytearray(path.read_bytes())
            path.unlink()
            path.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
        return base

    monkeypatch.setattr(Staging, "base", changed)
    job_id = pair.submit(retries=0)
    with pair:
        ended_as(pair, job_id, "failed")
    message = (job_of(pair.deployment.db, job_id).error or {})["message"]
    assert "the bytes of model.safetensors that this worker has staged are not those of the base" in message
    assert "worker" in message and "Stage: training" not in story(pair, job_id)


def test_a_member_with_a_full_disk_pauses_the_job(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the leader's own would; the reason names the machine on which room is needed."""
    real = attempt_folder.create

    def full(workspace: Workspace) -> None:
        if "rank-1" in str(workspace.root):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(workspace)

    monkeypatch.setattr(attempt_folder, "create", full)
    job_id = pair.submit()
    with pair:
        ended_as(pair, job_id, "paused")
        assert "Job paused: the disk of the worker worker" in story(pair, job_id)
        monkeypatch.setattr(attempt_folder, "create", real)
        lifecycle.resume(pair.deployment.db, "default", job_id)
        assert succeeded(pair.deployment, job_id).crashes == 0


def test_a_member_with_a_slow_disk_is_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it keeps its lease: the leader begins when every machine has its files."""
    real, gate = travelling.bring, threading.Event()

    def slow(storage: Storage, workspace: Workspace, checkpoint: TravellingCheckpoint | None) -> None:
        if "rank-1" in str(workspace.root):
            assert gate.wait(PATIENCE)
        real(storage, workspace, checkpoint)

    monkeypatch.setattr(travelling, "bring", slow)
    job_id = pair.submit()
    with pair:
        eventually(lambda: state_of_member(pair, job_id) == "joined", says=lambda: story(pair, job_id))
        eventually(lambda: plan_is_there(pair, job_id), says=lambda: story(pair, job_id))
        assert "Stage: training" not in story(pair, job_id)
        gate.set()
        assert succeeded(pair.deployment, job_id).attempt == 1


def state_of_member(pair: Pair, job_id: str) -> str | None:
    return of_place(pair, job_id, GangMember.state, rank=1)


def plan_is_there(pair: Pair, job_id: str) -> bool:
    return of_place(pair, job_id, GangMember.plan, rank=0) is not None


def of_place(pair: Pair, job_id: str, column: Any, *, rank: int) -> Any:
    with pair.deployment.db.read() as session:
        return session.scalar(select(column).where(GangMember.job_id == job_id, GangMember.rank == rank))


def test_another_version_is_refused_before_training(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the code changed after the worker had registered."""
    monkeypatch.setattr(member, "code_digest", lambda: "another")
    job_id = pair.submit(retries=0)
    with pair:
        ended_as(pair, job_id, "failed")
    assert "runs another version than the leader" in (job_of(pair.deployment.db, job_id).error or {})["message"]


def test_a_worker_that_does_not_answer_costs_no_retry(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job waits in the queue again, and for that worker no longer; with the next one a gang forms."""
    monkeypatch.setattr(gang_rows, "JOIN_SECONDS", 1.0)
    monkeypatch.setattr("worker.supervisor.gang.leader.JOIN_SECONDS", 1.0)
    job_id = pair.submit()
    pair.register()
    pair.start(0)
    eventually(lambda: "No gang came together: worker1 did not answer" in story(pair, job_id))
    ended_as(pair, job_id, "queued")
    pair.start(1)
    job = succeeded(pair.deployment, job_id)
    pair.__exit__()
    assert job.crashes == 0 and job.attempt >= 2
