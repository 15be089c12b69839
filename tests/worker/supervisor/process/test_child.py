"""Trainers started, asked to stop and killed by their handles."""

import signal
from pathlib import Path

import psutil

from tests.patience import PATIENCE
from tests.worker.supervisor.process.trainers import introduced, sleeping, wait_for
from worker.supervisor.process.child import Forkserver


def test_environment_of_one_child(forkserver: Forkserver, workspace: Path) -> None:
    """A device is given to one child only, through its environment."""
    assert introduced(forkserver, workspace, CUDA_VISIBLE_DEVICES="3")["os.environ"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in introduced(forkserver, workspace)["os.environ"]


def test_terminate_ends_a_willing_child(forkserver: Forkserver, workspace: Path) -> None:
    """SIGTERM is enough where nobody catches it."""
    with sleeping(forkserver, workspace, "sleep") as child:
        assert child.alive
        assert child.stop(PATIENCE) == -signal.SIGTERM


def test_kill_ends_a_deaf_child(forkserver: Forkserver, workspace: Path) -> None:
    """A trainer that ignores SIGTERM is killed after the grace."""
    with sleeping(forkserver, workspace, "ignore") as child:
        assert child.stop(0.2) == -signal.SIGKILL
    assert not psutil.pid_exists(child.pid)


def test_closing_the_handle_ends_the_child(forkserver: Forkserver, workspace: Path) -> None:
    """A runner that loses its way cannot leave a trainer behind."""
    with sleeping(forkserver, workspace, "ignore") as child:
        pass
    wait_for(lambda: not psutil.pid_exists(child.pid))
