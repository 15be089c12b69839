"""Gangs of real workers with folders of their own: killed on either side, and on two hosts with addresses of their own.

The two hosts are network namespaces with a cable between them. The database is reached by its local socket from both.
"""

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import pytest

from app.db import Database
from app.evidence.format.keys import load_or_create
from app.evidence.tables import Evidence
from app.jobs.queue.states import TERMINAL
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.processes import of_job
from tests.worker.supervisor.jobs import events_of, eventually, job_of, submit
from worker.supervisor.gang import travelling

ROOT = Path(__file__).parents[2]
#: Some seconds, so that an interruption never comes too late.
LONG: Final = {"n_epochs": 160, "batch_size": 8, "checkpoint_steps": 40}
QUICK: Final = {
    "PERMAFROST_LEASE_SECONDS": "8",
    "PERMAFROST_HEARTBEAT_SECONDS": "1",
    "PERMAFROST_SWEEP_SECONDS": "0.5",
    "PERMAFROST_DEVICES": "cpu",
    "OMP_NUM_THREADS": "1",
}
HOSTS: Final = ("10.77.0.1", "10.77.0.2")

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("deployment", ["deployed"], indirect=True)]


@dataclass
class Gang:
    """Two workers, by number; each may be killed and started again."""

    deployment: Deployment
    folder: Path
    addresses: tuple[str, str]
    #: What starts a program on a host.
    on: tuple[list[str], list[str]] = ([], [])
    settings: dict[str, str] = field(default_factory=dict)
    workers: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def start(self, number: int) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
        own = {
            "PERMAFROST_DATA_DIR": str(self.folder / f"worker{number}"),
            "PERMAFROST_DATABASE_URL": self.deployment.settings.database,
            "PERMAFROST_STORAGE_URL": self.deployment.settings.storage,
            "PERMAFROST_SIGNING_KEY": str(self.deployment.settings.signing_key_path),
            "PERMAFROST_GANG_ADDRESS": self.addresses[number],
        }
        worker = subprocess.Popen(
            [*self.on[number], sys.executable, "-m", "worker"],
            cwd=ROOT,
            env=given | QUICK | own | self.settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.workers[number] = worker
        ready = threading.Event()
        threading.Thread(target=self._listen, args=(worker, ready), daemon=True).start()
        assert ready.wait(PATIENCE), "\n".join(self.lines[-60:])

    def kill(self, number: int) -> None:
        """kill -9 of the worker alone: what it started has to end by itself."""
        worker = self.workers[number]
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()

    def close(self) -> None:
        for worker in self.workers.values():
            family = []
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(worker.pid).children(recursive=True)
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()

    @property
    def db(self) -> Database:
        return self.deployment.db

    def submit(self) -> str:
        return submit(self.deployment, devices=2, machines=2, hyperparameters=LONG)

    def saved(self, job_id: str) -> None:
        """Until a checkpoint of the job is in the storage."""
        eventually(lambda: travelling.newest(self.db, job_id), says=lambda: self.story(job_id))

    def succeeded(self, job_id: str) -> str | None:
        """The root of its result."""
        eventually(lambda: job_of(self.db, job_id).status in TERMINAL, says=lambda: self.story(job_id))
        assert job_of(self.db, job_id).status == "succeeded", self.story(job_id)
        with self.db.read() as session:
            evidence = session.get_one(Evidence, job_id)
            assert evidence.verdict == "verified"
            return evidence.result_root

    def said(self, job_id: str, words: str) -> bool:
        return any(words in each.message for each in events_of(self.db, job_id))

    def story(self, job_id: str) -> str:
        events = [f"{each.created_at} {each.message} {each.data or ''}" for each in events_of(self.db, job_id)]
        return "\n".join([job_of(self.db, job_id).status, *events, *self.lines[-60:]])

    def _listen(self, worker: subprocess.Popen[str], ready: threading.Event) -> None:
        assert worker.stdout is not None
        with contextlib.suppress(ValueError):  # closed while it was read
            self._read(worker.stdout, ready)

    def _read(self, output: Iterable[str], ready: threading.Event) -> None:
        for line in output:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("permafrost worker ready"):
                ready.set()


@contextlib.contextmanager
def running(gang: Gang) -> Iterator[Gang]:
    load_or_create(gang.deployment.settings.signing_key_path)
    try:
        for number in range(2):
            gang.start(number)
        yield gang
    finally:
        gang.close()


@pytest.fixture
def gang(deployment: Deployment, tmp_path: Path) -> Iterator[Gang]:
    with running(Gang(deployment, tmp_path, ("127.0.0.2", "127.0.0.3"))) as made:
        yield made


@pytest.fixture
def hosts(deployment: Deployment, tmp_path: Path) -> Iterator[Gang]:
    """On two hosts, whose only network is the cable between them."""
    with cable() as (first, second):
        on = (["ip", "netns", "exec", first], ["ip", "netns", "exec", second])
        folders = {"PERMAFROST_BROKER_URL": "", "PERMAFROST_STALL_SECONDS": "6"}
        with running(Gang(deployment, tmp_path, HOSTS, on, folders)) as made:
            yield made


@contextlib.contextmanager
def cable() -> Iterator[tuple[str, str]]:
    """Two network namespaces that reach each other and nothing else, gone afterwards."""
    number = random.SystemRandom().randrange(1 << 24)
    first, second = f"pf{number:06x}a", f"pf{number:06x}b"
    made = []
    try:
        for name in (first, second):
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"NO TWO HOSTS: network namespaces are made by root alone ({done.stderr.strip()})")
            made.append(name)
        ip("link", "add", first, "netns", first, "type", "veth", "peer", "name", second, "netns", second)
        for name, address in zip((first, second), HOSTS, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield first, second
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.mark.fault(37)
@pytest.mark.parametrize("side", ["leader", "member"])
def test_a_killed_worker_of_either_side(gang: Gang, side: str) -> None:
    """Its trainer and the other machine's end; with the worker started again the job goes on, to the same bits."""
    undisturbed = gang.succeeded(gang.submit())
    job_id = gang.submit()
    gang.saved(job_id)
    gang.kill(side_of(gang, job_id, side))
    eventually(lambda: not of_job(job_id), says=lambda: gang.story(job_id))

    gang.start(next(number for number, worker in gang.workers.items() if worker.poll() is not None))
    assert gang.succeeded(job_id) == undisturbed
    job = job_of(gang.db, job_id)
    assert job.crashes == 1 and gang.said(job_id, "goes on after step"), gang.story(job_id)
    # A gang that was tried with the dead worker before it was back has lost a member as well.
    assert (job.takeovers == 1 if side == "leader" else job.lost_members >= 1) and job.gangs == 2


def side_of(gang: Gang, job_id: str, side: str) -> int:
    owner = job_of(gang.db, job_id).lease_owner or ""
    leading = next(number for number, worker in gang.workers.items() if f"/{worker.pid}/" in owner)
    return leading if side == "leader" else 1 - leading


def test_two_hosts_train_one_job(hosts: Gang) -> None:
    """They meet at their own addresses, and the result has the bits of a gang on one machine."""
    root = hosts.succeeded(hosts.submit())
    for number in range(2):
        hosts.kill(number)
    hosts.on, hosts.addresses = ([], []), ("127.0.0.2", "127.0.0.3")
    for number in range(2):
        hosts.start(number)
    assert hosts.succeeded(hosts.submit()) == root


@pytest.mark.fault(38)
def test_a_cut_cable(hosts: Gang) -> None:
    """The ranks wait for each other until the watchdog ends the attempt; mended, the job goes on to the same bits."""
    undisturbed = hosts.succeeded(hosts.submit())
    job_id = hosts.submit()
    hosts.saved(job_id)
    name = hosts.on[0][-1]
    ip("-n", name, "link", "set", name, "down")
    eventually(
        lambda: hosts.said(job_id, "the trainer reported nothing for 6 seconds"), says=lambda: hosts.story(job_id)
    )
    eventually(lambda: not of_job(job_id), says=lambda: hosts.story(job_id))
    ip("-n", name, "link", "set", name, "up")
    assert hosts.succeeded(job_id) == undisturbed
    assert hosts.said(job_id, "goes on after step")


@pytest.mark.fault(37)
def test_a_killed_host(hosts: Gang) -> None:
    """The other one ends its part and goes on with the host that comes back."""
    undisturbed = hosts.succeeded(hosts.submit())
    job_id = hosts.submit()
    hosts.saved(job_id)
    hosts.kill(side_of(hosts, job_id, "member"))
    hosts.start(next(number for number, worker in hosts.workers.items() if worker.poll() is not None))
    assert hosts.succeeded(job_id) == undisturbed
