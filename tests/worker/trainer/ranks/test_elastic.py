"""Ranks of two machines, each started by its own agent: here two processes, which meet at a loopback address."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE
from worker.protocol import EXIT_DONE, EXIT_FAILED, EXIT_SIGNALLED, EXIT_STOPPED, WorkOrder, Workspace
from worker.trainer.ranks.elastic import launch_on_machines
from worker.trainer.ranks.group import joined

ADDRESS = "127.0.0.2"


def works(folder: Path) -> None:
    with joined(WorkOrder.load(folder)) as group:
        assert group.total([1.0])[0] == group.size == 4
        (folder / f"rank-{group.rank}").touch()


def shows_where_it_meets(folder: Path) -> None:
    order = WorkOrder.load(folder)
    with joined(order) as group:
        if group.leads and order.meeting:
            port = int(order.meeting.rpartition(":")[2])
            listening = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN"]
            ours = sorted({each.laddr.ip for each in listening if each.laddr.port == port})
            (folder / "listening").write_text(" ".join(ours))
        group.total([0.0])


def stops(folder: Path) -> None:
    with joined(WorkOrder.load(folder)) as group:
        group.total([1.0])
    raise SystemExit(EXIT_STOPPED)


def fails_on_the_last(folder: Path) -> None:
    with joined(WorkOrder.load(folder)) as group:
        if group.rank == group.size - 1:
            raise SystemExit(EXIT_FAILED)
        group.total([1.0])


def dies_on_the_last(folder: Path) -> None:
    with joined(WorkOrder.load(folder)) as group:
        if group.rank == group.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        group.total([1.0])


def codes(folder: Path, work: Callable[[Path], None]) -> list[int | None]:
    """The exit codes of two machines with two ranks each."""
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        meeting = f"{ADDRESS}:{free.getsockname()[1]}"
    started = []
    for machine in range(2):
        workspace = Workspace(folder / f"machine{machine}").create()
        model = WorkOrder.from_json({"job_id": "j", "stage": "train", "model": AFFINE}).model
        order = WorkOrder(job_id="j", stage="train", model=model, device="cpu", devices=2, machines=2, machine=machine,
                          meeting=meeting, interface="lo")  # fmt: skip
        order.save(workspace.root)
        process = multiprocessing.get_context("fork").Process(target=_machine, args=(workspace, order, work))
        process.start()
        started.append(process)
    for process in started:
        process.join(PATIENCE)
    return [process.exitcode for process in started]


AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}


def _machine(workspace: Workspace, order: WorkOrder, work: Callable[[Path], None]) -> None:
    os._exit(launch_on_machines(workspace, order, work))


def test_ranks_of_all_machines_are_one_group(tmp_path: Path) -> None:
    """The first machine has the first ranks."""
    assert codes(tmp_path, works) == [EXIT_DONE, EXIT_DONE]
    ranks = [sorted(path.name for path in (tmp_path / f"machine{machine}").glob("rank-*")) for machine in range(2)]
    assert ranks == [["rank-0", "rank-1"], ["rank-2", "rank-3"]]


def test_they_meet_at_the_configured_address_alone(tmp_path: Path) -> None:
    """torch's own store would listen on every address of the machine."""
    assert codes(tmp_path, shows_where_it_meets) == [EXIT_DONE, EXIT_DONE]
    assert (tmp_path / "machine0" / "listening").read_text() == ADDRESS


def test_a_stop_is_no_failure(tmp_path: Path) -> None:
    """The agent takes any exit code but 0 for one: it never sees this one."""
    assert codes(tmp_path, stops) == [EXIT_STOPPED, EXIT_STOPPED]


@pytest.mark.parametrize(("work", "code"), [(fails_on_the_last, EXIT_FAILED), (dies_on_the_last, EXIT_SIGNALLED + 9)])
def test_a_rank_that_fails_ends_all(tmp_path: Path, work: Callable[[Path], None], code: int) -> None:
    """On its own machine with its code, on others because their connection broke."""
    assert codes(tmp_path, work) == [EXIT_FAILED, code]
