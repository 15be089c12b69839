"""What a trainer inherits, its limits, and that it never outlives its worker."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.living import lives
from tests.worker.supervisor.process.trainers import TRAINERS, introduced, wait_for
from worker.supervisor.process.child import Forkserver


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
        seen = introduced(forkserver, workspace)
    assert canary not in json.dumps(seen)
    assert "OMP_NUM_THREADS=1" in seen["environ"]
    assert {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "TOKENIZERS_PARALLELISM=false"} <= set(seen["environ"])
    assert not [target for target in seen["fd"].values() if target.startswith("socket:")]
    # Standard input, output and error, and the lifeline.
    assert sorted(seen["fd"]) == ["0", "1", "2", next(name for name, to in seen["fd"].items() if "pipe:" in to)]


def test_child_is_confined(forkserver: Forkserver, workspace: Path) -> None:
    """It leads a group of its own, dumps no core, and dies first when memory runs out."""
    seen = introduced(forkserver, workspace)
    assert seen["pgid"] == seen["pid"]
    assert seen["cwd"] == str(workspace)
    assert seen["threads"] == 1
    assert seen["oom_score_adj"] == 500
    assert [line.split()[4:6] for line in seen["limits"].splitlines() if line.startswith("Max core")] == [["0", "0"]]


def test_supervisor_and_its_children_import_no_database(forkserver: Forkserver, workspace: Path) -> None:
    """Whatever is not imported cannot be used by the code that parses other people's files."""
    modules = set(introduced(forkserver, workspace)["modules"])
    assert not modules & {"sqlalchemy", "celery", "redis", "psycopg", "cryptography", "fastapi"}


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
        wait_for((workspace / "asleep").exists)
        family = psutil.Process(worker.pid).children(recursive=True)
        assert pid in {each.pid for each in family}
        worker.kill()
    wait_for(lambda: not any(map(lives, family)))
