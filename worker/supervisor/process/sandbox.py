"""Confines a forked process before it becomes a trainer: lifeline, log, limits, Landlock and seccomp."""

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import app
import worker
from worker.protocol import Workspace
from worker.supervisor.process.landlock import around, drop_capabilities, ephemeral_ports, restrict
from worker.supervisor.process.seccomp import forbid_network
from worker.supervisor.process.tied import die_with

OPEN_FILES = 4096
#: Threads and processes of the worker's user in all, which stops a fork bomb. The kernel exempts root.
PROCESSES = 8192
#: When memory runs out, the kernel should kill a trainer and not the worker.
OOM_SCORE = 500


def confine(
    workspace: Path,
    *,
    lifeline: int,
    hidden: Iterable[Path] = (),
    writable: Iterable[Path] = (),
    several: bool = False,
) -> None:
    """Confine this process for good: it writes to its workspace, home and temporary folders, and cannot read `hidden`.

    `writable` are further folders, among the hidden ones or not; a link that an earlier process left grants nothing.
    `lifeline` is the read end of a pipe whose write end only the worker has. `several` allows the ephemeral TCP ports,
    at which the ranks of one job connect.
    """
    os.setpgid(0, 0)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with(lifeline)
    os.umask(0o077)
    os.chdir(workspace)
    _log_to(Workspace(workspace).log)
    _limit()
    drop_capabilities()
    ports = ephemeral_ports() if several else range(0)
    allowed = [*_writable(workspace, list(hidden)), *writable]
    if not restrict(read=_readable(workspace, list(hidden)), write=allowed, ports=ports):
        print("this kernel has no Landlock: the trainer runs with all of its worker's rights over files", flush=True)
    if not several and not forbid_network():
        print("this machine has no seccomp: the trainer may use the network as far as Landlock lets it", flush=True)
    _find_temporary_folder()


def _find_temporary_folder() -> None:
    """Looks again for a folder for temporary files: the forkserver's, of before, may not be written to any more.

    A trainer may make nothing in a /tmp that holds the service's own folder. The workspace is where Python looks last.
    """
    tempfile.tempdir = None
    os.environ["TMPDIR"] = tempfile.gettempdir()


def _log_to(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, wanted in ((resource.RLIMIT_NOFILE, OPEN_FILES), (resource.RLIMIT_NPROC, PROCESSES)):
        _, most = resource.getrlimit(limit)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(limit, (value, value))
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _readable(workspace: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """All paths but the hidden ones; of those, the blobs that are staged for this job, and our own code."""
    yield from around(Path("/"), hidden)
    yield from (Path(sys.prefix), Path(sys.base_prefix), Path(app.__path__[0]), Path(worker.__path__[0]))
    for folder in (Workspace(workspace).base, Workspace(workspace).data):
        if folder.is_dir():
            yield from (path.resolve() for path in folder.rglob("*") if path.is_symlink())


def _writable(workspace: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    yield workspace
    yield Workspace(workspace).checkpoints.resolve()
    yield Path(os.environ["HOME"])
    for folder in (Path("/dev"), Path("/proc"), Path("/tmp"), Path("/var/tmp")):
        yield from around(folder, hidden)
