"""Jobs of several devices in a worker: what they take, when they wait, and how they end."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from app.evidence.tables import Evidence
from app.jobs import views
from app.jobs.queue import lifecycle, making_room, preemption, workers
from app.jobs.queue.tables import Checkpoint
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.processes import of_job
from tests.worker.supervisor.jobs import events_of, eventually, job_of, make_runner, submit, succeeded
from worker.supervisor.devices import Slots, find_devices
from worker.supervisor.process.child import Forkserver
from worker.supervisor.process.landlock import version
from worker.supervisor.runner import Runner

# Some seconds, so that an interruption never comes too late.
LONG = {"n_epochs": 160, "batch_size": 8, "checkpoint_steps": 5}
TRAINEES = "tests.worker.supervisor.small_trainers"


@pytest.fixture(scope="module")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    with Forkserver(home=tmp_path_factory.mktemp("forkserver")) as forkserver:
        forkserver.warm()
        yield forkserver


@pytest.fixture
def runner(deployment: Deployment, forkserver: Forkserver) -> Runner:
    runner = make_runner(deployment, forkserver, grace_seconds=20.0)
    runner.slots = Slots(find_devices("cpu:2"))
    return runner


def in_background(runner: Runner) -> threading.Thread:
    thread = threading.Thread(target=runner.run_next, daemon=True)
    thread.start()
    return thread


def training(deployment: Deployment, job_id: str, *, step: int = 1) -> None:
    eventually(
        lambda: ((job_of(deployment.db, job_id).progress or {}).get("step") or 0) >= step,
        says=lambda: "\n".join(each.message for each in events_of(deployment.db, job_id)),
    )


def result_root(deployment: Deployment, job_id: str) -> str | None:
    with deployment.db.read() as session:
        return session.get_one(Evidence, job_id).result_root


def test_two_devices_train_one_job(deployment: Deployment, runner: Runner) -> None:
    """Two processes, one result: verified, and the slots are free again; a job of one device has the same evidence."""
    two = submit(deployment, devices=2)
    one = submit(deployment)
    assert runner.run_next()
    assert runner.run_next()
    assert runner.slots.free == 2
    assert not of_job(two)
    evidence = []
    for job_id in (two, one):
        succeeded(deployment, job_id)
        with deployment.db.read() as session:
            evidence.append(session.get_one(Evidence, job_id))
    assert [each.verdict for each in evidence] == ["verified", "verified"]
    assert evidence[0].frozen_root == evidence[1].frozen_root


@pytest.mark.slow
@pytest.mark.chaos
def test_killed_rank_counts_one_crash_and_the_job_goes_on(deployment: Deployment, runner: Runner) -> None:
    """kill -9 of one of two: both end, one crash is booked, and the next attempt ends with the undisturbed bits."""
    undisturbed = submit(deployment, devices=2, hyperparameters=LONG)
    runner.run_next()
    succeeded(deployment, undisturbed)
    job_id = submit(deployment, devices=2, hyperparameters=LONG)
    thread = in_background(runner)
    training(deployment, job_id, step=20)
    leader, *ranks = of_job(job_id)
    assert len(ranks) == 2
    ranks[-1].kill()
    thread.join(PATIENCE)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes, job.attempt) == ("queued", 1, 1)
    assert not leader.is_running()
    assert any("ended by signal 9" in each.message for each in events_of(deployment.db, job_id))
    eventually(runner.run_next)
    assert succeeded(deployment, job_id).attempt == 2
    assert result_root(deployment, job_id) == result_root(deployment, undisturbed)


def test_pause_and_cancel_reach_every_rank(deployment: Deployment, runner: Runner) -> None:
    """A pause leaves one checkpoint of the step at which all stopped; a cancel leaves no process."""
    job_id = submit(deployment, devices=2, hyperparameters=LONG | {"n_epochs": 100_000, "checkpoint_steps": 450_000})
    thread = in_background(runner)
    training(deployment, job_id)
    lifecycle.pause(deployment.db, "default", job_id)
    thread.join(PATIENCE)
    assert job_of(deployment.db, job_id).status == "paused"
    with deployment.db.read() as session:
        assert len(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)).all()) == 1
    lifecycle.resume(deployment.db, "default", job_id)
    thread = in_background(runner)
    eventually(lambda: len(of_job(job_id)) == 3)
    lifecycle.cancel(deployment.db, "default", job_id)
    thread.join(PATIENCE)
    assert not of_job(job_id)
    assert runner.slots.free == 2


@pytest.mark.slow
def test_preempted_job_ends_with_the_same_bits(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes room for a job of higher priority at its next step, goes on afterwards, and ends as if left alone."""
    monkeypatch.setattr(preemption, "SOON", 0.0)  # this job ends within a minute
    workers.register(deployment.db, runner.worker, devices=2, kind="cpu")
    undisturbed = submit(deployment, devices=2, hyperparameters=LONG)
    runner.run_next()
    succeeded(deployment, undisturbed)

    job_id = submit(deployment, devices=2, hyperparameters=LONG)
    thread = in_background(runner)
    training(deployment, job_id, step=20)
    workers.register(deployment.db, runner.worker, devices=2, kind="cpu")  # seen, however long that took
    urgent = submit(deployment, priority=1)
    # A row that its own worker is writing at this moment is left for the next round.
    assert eventually(lambda: making_room.make_room(deployment.db, runner.shares, most=1)) == [job_id]
    thread.join(PATIENCE)
    assert runner.run_next() and succeeded(deployment, urgent)
    assert runner.run_next()
    job = succeeded(deployment, job_id)
    assert (job.attempt, job.crashes, job.preemptions) == (2, 0, 1)
    assert result_root(deployment, job_id) == result_root(deployment, undisturbed)


def test_worker_that_dies_takes_its_ranks_along(runner: Runner, tmp_path: Path) -> None:
    """The lifeline is the group's: once the worker's end is closed, the kernel ends leader and ranks."""
    forkserver = Forkserver(home=tmp_path / "home", entry=f"{TRAINEES}:ranks", preload=[TRAINEES])
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with forkserver, forkserver.start(workspace, several=True) as child:
        ranks = [int(each) for each in eventually(lambda: _lines(workspace / "ranks", 2))]
        child.close()
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in ranks))


@pytest.mark.skipif(version() < 4, reason="this kernel's Landlock knows no TCP")
def test_ranks_reach_each_other_and_no_service(tmp_path: Path) -> None:
    """Ports that the kernel hands out are open to a group of ranks; a service at its own port stays out of reach."""
    with socket.socket() as service:
        service.bind(("127.0.0.1", _fixed_port()))
        service.listen()
        forkserver = Forkserver(home=tmp_path / "home", entry=f"{TRAINEES}:connect", preload=[TRAINEES])
        workspace = tmp_path / "workspace"
        workspace.mkdir()
        (workspace / "port").write_text(str(service.getsockname()[1]))
        with forkserver, forkserver.start(workspace, several=True) as child:
            assert child.wait(PATIENCE) == 0, (workspace / "log.txt").read_text()
    assert (workspace / "found").read_text() == "each other; service: PermissionError"


def test_large_job_keeps_its_place(deployment: Deployment, runner: Runner) -> None:
    """One of two slots is in use: the job that needs both waits, and the small one behind it does not pass it."""
    busy = runner.slots.take()
    assert busy is not None
    large, small = submit(deployment, devices=2), submit(deployment)
    assert not runner.run_next()
    assert {job_of(deployment.db, each).status for each in (large, small)} == {"queued"}
    runner.slots.give_back(busy)
    assert runner.run_next()
    assert job_of(deployment.db, large).status == "succeeded"


def test_job_that_no_worker_can_hold_waits_and_says_so(deployment: Deployment, runner: Runner) -> None:
    """It is not claimed, those behind it are, and its reader learns what it waits for."""
    huge, small = submit(deployment, devices=3), submit(deployment)
    assert (
        _waiting(deployment, huge)
        == "a worker with 3 devices: no worker is alive now; start one with `permafrost worker`"
    )
    workers.register(deployment.db, runner.worker, devices=2, kind="cpu")
    assert _waiting(deployment, huge) == "a worker with 3 devices: the only worker alive has 2"
    assert _waiting(deployment, small) is None
    assert runner.run_next()
    assert job_of(deployment.db, huge).status == "queued"
    workers.register(deployment.db, "a larger one", devices=4, kind="cpu")
    assert _waiting(deployment, huge) is None


def _waiting(deployment: Deployment, job_id: str) -> Any:
    with deployment.db.read() as session:
        return views.read(session, "default", job_id)[0].waiting_for


def _lines(path: Path, count: int) -> list[str] | None:
    lines = path.read_text().split() if path.exists() else []
    return lines if len(lines) == count else None


def _fixed_port() -> int:
    """A free one below those that the kernel hands out."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(low - 1, 1024, -1):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("every port is taken")
