"""Workers as processes of their own, started, watched and ended by tests."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from tests.conftest import Deployment
from tests.living import lives
from tests.patience import PATIENCE

STUB_WORKER = "tests.worker.stub_worker"
#: A lease is as long as by default: a busy machine must not take jobs away from workers. Tests end one by `expire`.
QUICK = {"PERMAFROST_HEARTBEAT_SECONDS": "0.5", "PERMAFROST_SWEEP_SECONDS": "0.5"}


@dataclass
class Process:
    """A worker and what it has printed so far."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    def await_ready(self) -> None:
        assert self.ready.wait(PATIENCE), "\n".join(self.lines)

    def family(self) -> list[psutil.Process]:
        """Forkserver and trainers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.popen.pid).children(recursive=True)
        return []

    def trainers(self) -> list[psutil.Process]:
        """Processes that lead their own group below the forkserver, which leads one as well."""
        found = []
        for each in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(each.pid) == each.pid and each.ppid() != self.popen.pid:
                    found.append(each)
        return found

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("permafrost worker ready"):
                self.ready.set()


@contextlib.contextmanager
def worker(deployment: Deployment, *, module: str = "tests.worker.stub_worker", **variables: str) -> Iterator[Process]:
    """A worker process in this deployment, ready to work; killed at the end if it is still there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
    environment |= QUICK | deployment.environment | variables
    popen = subprocess.Popen(
        [sys.executable, "-m", module],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Signals that a test sends to its own group are not meant for workers.
        start_new_session=True,
    )
    process = Process(popen)
    listener = threading.Thread(target=process._listen, daemon=True)
    listener.start()
    try:
        process.await_ready()
        yield process
    finally:
        family = process.family()
        popen.kill()
        popen.wait()
        listener.join()
        assert popen.stdout is not None
        popen.stdout.close()
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(map(lives, processes))


def of_job(job_id: str) -> list[psutil.Process]:
    """Those whose working folder is this job's, the leaders of a group first."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if f"/{job_id}/" in f"{process.cwd()}/":
                found.append(process)
    return sorted(found, key=lambda each: not _leads(each))


def _leads(process: psutil.Process) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process.pid) == process.pid
    return False
