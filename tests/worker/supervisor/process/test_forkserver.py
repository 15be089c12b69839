"""The forkserver: exit codes, leases, what is left of a group, and modules that cannot be imported."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.living import lives
from tests.patience import PATIENCE
from tests.worker.supervisor.process.trainers import TRAINERS, introduced, read, sleeping, wait_for
from worker.protocol import Workspace
from worker.supervisor.process.child import ChildError, Forkserver


def test_no_code_comes_from_a_folder_that_trainers_write_to(forkserver: Forkserver, workspace: Path) -> None:
    """Neither the working folder nor the home of the forkserver, which is in no sandbox, is searched for modules."""
    seen = introduced(forkserver, workspace)
    assert seen["flags"] == {"safe_path": True, "no_user_site": 1}
    assert not {"", str(workspace), str(forkserver.home)} & set(seen["sys.path"])
    assert {"PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1"} <= set(seen["environ"])


def test_failure_leaves_its_reason_in_the_log(forkserver: Forkserver, workspace: Path) -> None:
    """An exception ends the child with code 1; its output and traceback are in log.txt."""
    forkserver.entry = f"{TRAINERS}:fail"
    with forkserver.start(workspace) as child:
        assert child.wait(PATIENCE) == 1
    log = (workspace / "log.txt").read_text()
    assert log.startswith("one last line before the end\n")
    assert "ValueError: the trainer does not like this workspace" in log


def test_exit_code_comes_through(forkserver: Forkserver, workspace: Path) -> None:
    """The trainer's own exit code reaches the worker, more than once if asked."""
    forkserver.entry = f"{TRAINERS}:leave"
    with forkserver.start(workspace) as child:
        assert [child.wait(PATIENCE), child.wait(0), child.wait()] == [75, 75, 75]
        assert not child.alive


@pytest.mark.parametrize("habit", ["multiply", "abandon"])
def test_loaders_end_with_their_trainer(forkserver: Forkserver, workspace: Path, habit: str) -> None:
    """Whether it is killed or ends by itself, nothing of a trainer's process group stays behind."""
    forkserver.entry = f"{TRAINERS}:{habit}"
    with forkserver.start(workspace) as child:
        loader = int(read(workspace / "loader"))
        if habit == "multiply":
            child.kill()
        child.wait(PATIENCE)
    wait_for(lambda: not psutil.pid_exists(loader))


def test_child_ends_with_its_lease(forkserver: Forkserver, workspace: Path, tmp_path: Path) -> None:
    """The last end that the worker gave counts, also where the one before passed meanwhile: here, with both at once."""
    with sleeping(forkserver, workspace, "sleep") as child:
        server = psutil.Process(child.pid).parent()
        assert server is not None
        server.suspend()
        child.extend_lease(time.monotonic() - 1)
        child.extend_lease(time.monotonic() + 3600)
        server.resume()
        sleeping(forkserver, Workspace(tmp_path / "other").create().root, "sleep").close()  # so both have been read
        assert child.alive
        child.extend_lease(time.monotonic() - 1)
        assert child.wait(PATIENCE) == -signal.SIGKILL


def test_death_of_the_forkserver_is_noticed(forkserver: Forkserver, workspace: Path) -> None:
    """Its children count as killed, and the next start brings up a new one."""
    with sleeping(forkserver, workspace, "sleep") as child:
        psutil.Process(child.pid).parent().kill()
        assert child.wait(PATIENCE) == -signal.SIGKILL
        wait_for(lambda: not lives(child.pid))
    forkserver.entry = f"{TRAINERS}:leave"
    for _ in range(2):  # the first start may still find the dying one
        try:
            with forkserver.start(workspace) as child:
                assert child.wait(PATIENCE) == 75
            break
        except ChildError:
            continue
    else:
        pytest.fail("no new forkserver came up")


def test_import_that_fails_is_said(tmp_path: Path, workspace: Path) -> None:
    """A module that cannot be imported is an error at the start, with its name."""
    forkserver = Forkserver(home=tmp_path / "home", preload=["no_such_module"])
    with forkserver, pytest.raises(ChildError, match="no_such_module"):
        forkserver.start(workspace)


def test_no_trainer_is_forked_after_a_call_of_cuda(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A device that was opened before the fork is of no use after it: the module that did so is named at the start."""
    preload = [TRAINERS, "tests.worker.supervisor.process.opens_a_device"]
    with Forkserver(home=tmp_path / "home", preload=preload) as server, pytest.raises(ChildError, match="opens_a_dev"):
        server.warm()
    assert "importing tests.worker.supervisor.process.opens_a_device called CUDA's driver" in capfd.readouterr().err
