"""Stand-ins for the trainer, each with one habit. The forkserver calls them by name."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from worker.protocol import Workspace
from worker.trainer.ranks.launch import launch

tempfile.gettempdir()  # looked up, and kept, before a trainer is confined: so do libraries that the forkserver imports


def introduce(workspace: Path) -> None:
    """Writes down what a process at this place can see."""
    process = Path("/proc/self")
    environment = [each.decode() for each in (process / "environ").read_bytes().split(b"\0") if each]
    links = {each.name: str(each.readlink()) for each in (process / "fd").iterdir() if each.is_symlink()}
    seen = {
        "environ": environment,
        "os.environ": dict(os.environ),
        "fd": links,
        "pid": os.getpid(),
        "pgid": os.getpgid(0),
        "threads": len(list((process / "task").iterdir())),
        "limits": (process / "limits").read_text(),
        "oom_score_adj": int((process / "oom_score_adj").read_text()),
        "cwd": str(Path.cwd()),
        "modules": sorted(sys.modules),
        "sys.path": sys.path,
        "flags": {"safe_path": sys.flags.safe_path, "no_user_site": sys.flags.no_user_site},
    }
    (workspace / "seen.json").write_text(json.dumps(seen))


def fail(workspace: Path) -> None:
    print("one last line before the end")
    raise ValueError("the trainer does not like this workspace")


def leave(workspace: Path) -> None:
    raise SystemExit(75)


def sleep(workspace: Path) -> None:
    (workspace / "asleep").touch()
    time.sleep(600)


def ignore(workspace: Path) -> None:
    """Hangs, and does not listen to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (workspace / "asleep").touch()
    time.sleep(600)


def hold_the_lock(workspace: Path) -> None:
    """Computes inside one C call for minutes: no other Python thread of this process runs meanwhile."""
    (workspace / "asleep").touch()
    sum(range(10**11))


def multiply(workspace: Path) -> None:
    """Has a loader process of its own, as a data loader would, and hangs together with it."""
    loader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (workspace / "loader").write_text(str(loader.pid))
    (workspace / "asleep").touch()
    time.sleep(600)


def abandon(workspace: Path) -> None:
    """Ends at once and leaves a loader process behind."""
    loader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (workspace / "loader").write_text(str(loader.pid))


def pry(workspace: Path) -> None:
    """Tries everything that a trainer has no business with, and writes down what worked."""
    order = json.loads((workspace / "order.json").read_text())
    (workspace / "out.txt").write_text("results belong here")
    (workspace / "checkpoints" / "step-1").mkdir()
    attempts = {
        "read a staged blob": lambda: (workspace / "base" / "model.safetensors").read_bytes(),
        "write a staged blob": lambda: (workspace / "base" / "model.safetensors").write_bytes(b"poison"),
        "read another blob": lambda: Path(order["blob"]).read_bytes(),
        "read the key": lambda: Path(order["key"]).read_bytes(),
        "list the data folder": lambda: list(Path(order["data"]).iterdir()),
        "replace the database": lambda: Path(order["data"], "permafrost.db").write_bytes(b""),
        "read the worker's environment": lambda: Path(f"/proc/{order['worker']}/environ").read_bytes(),
        "read the worker's memory": lambda: Path(f"/proc/{order['worker']}/mem").open("rb").close(),
        "signal the worker": lambda: os.kill(order["worker"], 0),
        "connect": lambda: socket.create_connection(("127.0.0.1", order["port"]), timeout=5).close(),
        "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
        "use a temporary file": lambda: tempfile.TemporaryFile().close(),
        "read the standard library": lambda: Path(os.__file__).read_bytes(),
    }
    (workspace / "seen.json").write_text(json.dumps({name: _works(attempt) for name, attempt in attempts.items()}))


def share(workspace: Path) -> None:
    """Reads and writes in two folders, and writes down what worked."""
    order = json.loads((workspace / "order.json").read_text())
    attempts: dict[str, Callable[[], object]] = {}
    for name, folder in order.items():
        attempts[f"read {name}"] = partial(Path(folder, "rows").read_bytes)
        attempts[f"write {name}"] = partial(Path(folder, "added").write_bytes, b"x")
    (workspace / "seen.json").write_text(json.dumps({name: _works(attempt) for name, attempt in attempts.items()}))


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def ranks(workspace: Path) -> None:
    """Two processes that hang, under one that waits for them."""
    raise SystemExit(launch(Workspace(workspace), 2, _hang))


def _hang(workspace: Path) -> None:
    with (workspace / "ranks").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(600)


def connect(workspace: Path) -> None:
    """Listens where the kernel says and connects to it, then to a service at a port of its own choice."""
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        socket.create_connection(mine.getsockname(), timeout=5).close()
    try:
        socket.create_connection(("127.0.0.1", int((workspace / "port").read_text())), timeout=5).close()
    except OSError as error:
        (workspace / "found").write_text(f"each other; service: {type(error).__name__}")
