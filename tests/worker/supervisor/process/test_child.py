"""Processes of trainers: what they inherit, how they end, and that they never outlive their worker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.patience import PATIENCE
from worker.protocol import Workspace
from worker.supervisor.process.child import ChildError, Forkserver

TRAINERS = "tests.worker.supervisor.small_trainers"


@pytest.fixture
def forkserver(tmp_path: Path) -> Iterator[Forkserver]:
    with Forkserver(home=tmp_path / "home", preload=[TRAINERS]) as forkserver:
        yield forkserver


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def test_child_sees_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workspace: Path) -> None:
    """Neither the worker's secrets nor its connections are within a trainer's reach, in any place it could look."""
    canary = "canary-7c1e"
    for name in (
        "PERMAFROST_DATABASE_URL",
        "PERMAFROST_SIGNING_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "PGPASSWORD",
    ):
        monkeypatch.setenv(name, canary)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    database, server = socket.socketpair()
    with database, server, Forkserver(home=tmp_path / "home", preload=[TRAINERS]) as forkserver:
        os.set_inheritable(database.fileno(), True)
        seen = _introduced(forkserver, workspace)
    assert canary not in json.dumps(seen)
    assert "OMP_NUM_THREADS=1" in seen["environ"]
    assert {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "TOKENIZERS_PARALLELISM=false"} <= set(seen["environ"])
    assert not [target for target in seen["fd"].values() if target.startswith("socket:")]
    # Standard input, output and error, and the lifeline.
    assert sorted(seen["fd"]) == ["0", "1", "2", next(name for name, to in seen["fd"].items() if "pipe:" in to)]


def test_child_is_confined(forkserver: Forkserver, workspace: Path) -> None:
    """It leads a group of its own, dumps no core, and dies first when memory runs out."""
    seen = _introduced(forkserver, workspace)
    assert seen["pgid"] == seen["pid"]
    assert seen["cwd"] == str(workspace)
    assert seen["threads"] == 1
    assert seen["oom_score_adj"] == 500
    assert [line.split()[4:6] for line in seen["limits"].splitlines() if line.startswith("Max core")] == [["0", "0"]]


def test_no_code_comes_from_a_folder_that_trainers_write_to(forkserver: Forkserver, workspace: Path) -> None:
    """Neither the working folder nor the home of the forkserver, which is in no sandbox, is searched for modules."""
    seen = _introduced(forkserver, workspace)
    assert seen["flags"] == {"safe_path": True, "no_user_site": 1}
    assert not {"", str(workspace), str(forkserver.home)} & set(seen["sys.path"])
    assert {"PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1"} <= set(seen["environ"])


def test_supervisor_and_its_children_import_no_database(forkserver: Forkserver, workspace: Path) -> None:
    """Whatever is not imported cannot be used by the code that parses other people's files."""
    modules = set(_introduced(forkserver, workspace)["modules"])
    assert not modules & {"sqlalchemy", "celery", "redis", "psycopg", "cryptography", "fastapi"}


def test_environment_of_one_child(forkserver: Forkserver, workspace: Path) -> None:
    """A device is given to one child only, through its environment."""
    assert _introduced(forkserver, workspace, CUDA_VISIBLE_DEVICES="3")["os.environ"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in _introduced(forkserver, workspace)["os.environ"]


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


def test_terminate_ends_a_willing_child(forkserver: Forkserver, workspace: Path) -> None:
    """SIGTERM is enough where nobody catches it."""
    with _sleeping(forkserver, workspace, "sleep") as child:
        assert child.alive
        assert child.stop(PATIENCE) == -signal.SIGTERM


def test_kill_ends_a_deaf_child(forkserver: Forkserver, workspace: Path) -> None:
    """A trainer that ignores SIGTERM is killed after the grace."""
    with _sleeping(forkserver, workspace, "ignore") as child:
        assert child.stop(0.2) == -signal.SIGKILL
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize("habit", ["multiply", "abandon"])
def test_loaders_end_with_their_trainer(forkserver: Forkserver, workspace: Path, habit: str) -> None:
    """Whether it is killed or ends by itself, nothing of a trainer's process group stays behind."""
    forkserver.entry = f"{TRAINERS}:{habit}"
    with forkserver.start(workspace) as child:
        loader = int(_read(workspace / "loader"))
        if habit == "multiply":
            child.kill()
        child.wait(PATIENCE)
    _await(lambda: not psutil.pid_exists(loader))


@pytest.mark.parametrize("habit", ["sleep", "ignore", "hold_the_lock", "multiply"])
def test_child_dies_with_its_worker(tmp_path: Path, workspace: Path, habit: str) -> None:
    """kill -9 of the worker ends trainer, loaders and forkserver, even while Python holds its lock in the trainer."""
    code = (
        "import sys, time; from pathlib import Path; from worker.supervisor.process.child import Forkserver\n"
        f"home, entry = Path({str(tmp_path / 'home')!r}), '{TRAINERS}:{habit}'\n"
        f"forkserver = Forkserver(home=home, preload=[{TRAINERS!r}], entry=entry)\n"
        f"child = forkserver.start(Path({str(workspace)!r}))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        _await((workspace / "asleep").exists)
        family = psutil.Process(worker.pid).children(recursive=True)
        assert pid in {each.pid for each in family}
        worker.kill()
    _await(lambda: not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE])


def test_child_ends_with_its_lease(forkserver: Forkserver, workspace: Path, tmp_path: Path) -> None:
    """The last end that the worker gave counts, also where the one before passed meanwhile: here, with both at once."""
    with _sleeping(forkserver, workspace, "sleep") as child:
        server = psutil.Process(child.pid).parent()
        assert server is not None
        server.suspend()
        child.extend_lease(time.monotonic() - 1)
        child.extend_lease(time.monotonic() + 3600)
        server.resume()
        _sleeping(forkserver, Workspace(tmp_path / "other").create().root, "sleep").close()  # so both have been read
        assert child.alive
        child.extend_lease(time.monotonic() - 1)
        assert child.wait(PATIENCE) == -signal.SIGKILL


def test_closing_the_handle_ends_the_child(forkserver: Forkserver, workspace: Path) -> None:
    """A runner that loses its way cannot leave a trainer behind."""
    with _sleeping(forkserver, workspace, "ignore") as child:
        pass
    _await(lambda: not psutil.pid_exists(child.pid))


def test_death_of_the_forkserver_is_noticed(forkserver: Forkserver, workspace: Path) -> None:
    """Its children count as killed, and the next start brings up a new one."""
    with _sleeping(forkserver, workspace, "sleep") as child:
        psutil.Process(child.pid).parent().kill()
        assert child.wait(PATIENCE) == -signal.SIGKILL
        _await(lambda: not _runs(child.pid))
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


def _introduced(forkserver: Forkserver, workspace: Path, **environment: str) -> dict[str, Any]:
    forkserver.entry = f"{TRAINERS}:introduce"
    with forkserver.start(workspace, environment=environment) as child:
        assert child.wait(PATIENCE) == 0, (workspace / "log.txt").read_text()
    seen: dict[str, Any] = json.loads((workspace / "seen.json").read_text())
    return seen


def _sleeping(forkserver: Forkserver, workspace: Path, habit: str) -> Any:
    forkserver.entry = f"{TRAINERS}:{habit}"
    child = forkserver.start(workspace)
    _await((workspace / "asleep").exists)
    return child


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _read(path: Path) -> str:
    _await(lambda: path.exists() and path.read_text() != "")
    return path.read_text()


def _await(condition: Any, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
