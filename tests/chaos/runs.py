"""Jobs that can be stopped at an exact point, and the points."""

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from tests.chaos.cluster import Cluster, eventually

CHANCE = random.Random(1)
ROWS = [[CHANCE.uniform(-1, 1) for _ in range(4)] for _ in range(64)]
TABLE = "\n".join(["a,b,c,d,y", *(",".join(f"{each:.6f}" for each in [*row, sum(row)]) for row in ROWS)]).encode()
#: 200 steps in 25 epochs, with a checkpoint after every fifth.
STEPS: Final = 200
HYPERPARAMETERS: Final = {"n_epochs": 25, "batch_size": 8, "learning_rate": 0.01, "checkpoint_steps": 5}
#: By default two are kept; these are there at step 18.
KEPT: Final = ["step-00000010", "step-00000015"]


@dataclass(frozen=True)
class Gates:
    """The folder in which a test closes gates before a run: `close("step-15")`, or `a2-step-15` for one attempt."""

    folder: Path

    def close(self, point: str, what: str = "wait") -> None:
        path = self.folder / point
        path.with_suffix(".new").write_text(what)
        path.with_suffix(".new").rename(path)

    def open(self, point: str) -> None:
        (self.folder / point).unlink(missing_ok=True)

    def open_all(self) -> None:
        for each in self.folder.iterdir():
            if each.suffix == "":
                each.unlink()

    def reached(self, point: str, *, says: Callable[[], str] = lambda: "no trainer came to the gate") -> int:
        """The pid of the trainer that waits there."""
        path = self.folder / f"{point}.reached"
        return int(eventually(lambda: path.exists() and path.read_text(), says=says))


def order(
    cluster: Cluster, gates: Gates, *, pace: float = 0.0, table: str | None = None, **fields: Any
) -> dict[str, Any]:
    """The request for a job that every test makes; its bits depend on none of the arguments but `fields`."""
    kwargs = {"in_features": 4, "out_features": 1, "gates": str(gates.folder), "pace": pace}
    return {
        "model": {"type": "torch", "architecture": "gated", "kwargs": kwargs},
        "training_file": table or cluster.upload(TABLE),
        "seed": 11,
        "hyperparameters": HYPERPARAMETERS,
        "freeze_policy": {"freeze": ["weight"]},
        **fields,
    }


@contextlib.contextmanager
def new_gates(cluster: Cluster) -> Iterator[Gates]:
    gates = Gates(Path(tempfile.mkdtemp(prefix="gates-", dir=cluster.root)))
    try:
        yield gates
    finally:
        gates.open_all()


@dataclass(frozen=True)
class Caught:
    """A job whose trainer stands still at a point of its life."""

    job_id: str
    pid: int
    gates: Gates
    stopped: tuple[int, ...] = ()

    def has_been_told(self) -> bool:
        """SIGTERM has reached it: noted at its gate, or pending while it stands still."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        pending = int(fields["ShdPnd"], 16) & 1 << (signal.SIGTERM - 1)
        return bool(pending) or any(self.gates.folder.glob("*.told"))

    def go_on(self) -> None:
        self.gates.open_all()
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def before_the_first_step(cluster: Cluster, gates: Gates) -> Caught | None:
    gates.close("a1-step-1")
    job_id = cluster.submit(order(cluster, gates))
    return Caught(job_id, gates.reached("a1-step-1", says=lambda: cluster.story(job_id)), gates)


def in_a_step(cluster: Cluster, gates: Gates) -> Caught | None:
    """Checkpoints lie behind it: those that are kept of steps 5, 10 and 15, each of them written to its end."""
    gates.close("a1-step-18")
    job_id = cluster.submit(order(cluster, gates))
    caught = Caught(job_id, gates.reached("a1-step-18", says=lambda: cluster.story(job_id)), gates)
    folder = cluster.settings.work / job_id / "checkpoints"
    # Steps do not wait for the thread that writes: the gate is reached before the last one lies there.
    eventually(lambda: sorted(path.name for path in folder.iterdir()) == KEPT, says=lambda: cluster.story(job_id))
    return caught


def in_a_write(cluster: Cluster, gates: Gates) -> Caught | None:
    """A checkpoint's temporary folder is there, and the checkpoint is not."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    folder = cluster.settings.work / caught.job_id / "checkpoints"
    os.kill(caught.pid, signal.SIGSTOP)
    gates.open_all()
    if not slice_until(caught.pid, lambda: any(folder.glob(".*.tmp"))):
        return None
    return Caught(caught.job_id, caught.pid, gates, (caught.pid,))


def before_the_row(cluster: Cluster, gates: Gates) -> Caught | None:
    """A checkpoint is published on disk, and the database does not know it."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    worker = cluster.worker.popen.pid
    os.kill(worker, signal.SIGSTOP)
    os.kill(caught.pid, signal.SIGSTOP)
    gates.open_all()
    folder = cluster.settings.work / caught.job_id / "checkpoints"
    found = slice_until(caught.pid, lambda: any(path.name > "step-00000019" for path in folder.glob("step-*")))
    return Caught(caught.job_id, caught.pid, gates, (caught.pid, worker)) if found else None


def before_the_end(cluster: Cluster, gates: Gates) -> Caught | None:
    """Trained, and its result is being written."""
    gates.close("exporting")
    job_id = cluster.submit(order(cluster, gates))
    return Caught(job_id, gates.reached("exporting", says=lambda: cluster.story(job_id)), gates)


PHASES: Final = {
    "before step 1": before_the_first_step,
    "in a step": in_a_step,
    "in a write": in_a_write,
    "before the row": before_the_row,
    "before the end": before_the_end,
}


def catch(cluster: Cluster, gates: Gates, phase: str) -> Caught:
    """A new job, caught in this phase. One that slipped through is let go, and the next is tried."""
    for _ in range(10):
        caught = PHASES[phase](cluster, gates)
        if caught is not None:
            return caught
        cluster.worker.popen.send_signal(signal.SIGCONT)
    raise AssertionError(f"no job could be stopped {phase!r}")


def slice_until(pid: int, condition: Callable[[], bool]) -> bool:
    """Lets a stopped process run in slices of a fraction of a millisecond; True once it stands and this holds."""
    try:
        process = psutil.Process(pid)
        while not condition():
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.0003)
            os.kill(pid, signal.SIGSTOP)
            while process.status() != psutil.STATUS_STOPPED:
                if process.status() == psutil.STATUS_ZOMBIE:
                    return False
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    return True
