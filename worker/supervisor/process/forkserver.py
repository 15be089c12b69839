"""The forkserver: a process with the trainer's modules imported, which forks a trainer on request.

Started as `python -P -s -m worker.supervisor.process.forkserver FD MODULE…` from a cleaned environment. It has one
thread, ends when the worker's end of its channel closes, and reaps what it forked.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from worker.supervisor.process.sandbox import confine
from worker.supervisor.process.tied import LIFELINE, die_with

#: The message that tells the worker that every module is imported.
READY = b"ready"
#: `lease PID SECONDS`: the trainer is killed at this time of the monotonic clock, unless a later message extends it.
LEASE = b"lease"
MESSAGE_BYTES = 1 << 16
#: CUDA's driver keeps files of this name open from its first call on, and cannot be used in a process forked later.
CUDA_FILES = "/dev/nvidia"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """A request of the worker: call `entry` ("module:function") with the workspace, in a process of its own.

    `hidden` are folders and files that this process may not read, and `writable` folders that it may write to all the
    same; `several` lets it be several processes that talk to each other.
    """

    entry: str
    workspace: str
    environment: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)
    several: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        return cls(**json.loads(message))


def main(arguments: Sequence[str]) -> None:
    die_with(LIFELINE)
    channel = socket.socket(fileno=int(arguments[0]))
    for name in arguments[1:]:
        importlib.import_module(name)
        if opened := cuda_files():
            # Trainers forked from here could not use a device, and would say so one job at a time.
            raise SystemExit(f"importing {name} called CUDA's driver ({opened[0]} is open), which no fork survives")
    # What is imported is shared by every trainer: leave it out of their garbage collections.
    gc.collect()
    gc.freeze()
    request = serve(channel)
    if request is not None:
        os._exit(run(request))


def serve(channel: socket.socket) -> ForkRequest | None:
    """Fork on request until the worker ends, then return None. In a forked process, return the request to run."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    statuses: dict[int, int] = {}  # pid -> pipe on which the worker waits for the exit code
    deadlines: dict[int, float] = {}  # pid -> end of its lease; a worker that is stopped lets it pass
    channel.send(READY)
    while True:
        ready, _, _ = select.select([channel.fileno(), wake], [], [], _seconds_left(deadlines))
        if wake in ready:
            os.read(wake, MESSAGE_BYTES)
            _reap(statuses)
        if channel.fileno() not in ready:
            # Not before every message is read: one may extend a lease, and this process may have been stopped itself.
            _end_overdue(deadlines, statuses)
            continue
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
        if not message:
            return None
        if message.startswith(LEASE):
            _, pid_text, deadline = message.split()
            deadlines[int(pid_text)] = float(deadline)
            continue
        lifeline, status = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            _close_standard_input()
            for descriptor in (channel.detach(), wake, waker, status, *statuses.values()):
                os.close(descriptor)
            request = ForkRequest.from_bytes(message)
            confine(
                Path(request.workspace),
                lifeline=lifeline,
                hidden=[Path(path) for path in request.hidden],
                writable=[Path(path) for path in request.writable],
                several=request.several,
            )
            return request
        _lead_group(pid)
        os.close(lifeline)
        statuses[pid] = status
        _send(status, f"pid {pid}\n")


def cuda_files() -> list[str]:
    """Device files of CUDA's driver that this process has open."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder's own descriptor is closed by now
            opened.append(str(descriptor.readlink()))
    return sorted(path for path in opened if path.startswith(CUDA_FILES))


def run(request: ForkRequest) -> int:
    """Run the entry; returns the exit code that the interpreter would give. Its own teardown takes 0.3 s more."""
    os.environ.update(request.environment)
    module, _, function = request.entry.partition(":")
    try:
        getattr(importlib.import_module(module), function)(Path(request.workspace))
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does with an uncaught exception
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _close_standard_input() -> None:
    """Replace the forkserver's own lifeline; a trainer has another."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, LIFELINE)
    os.close(null)


def _reap(statuses: dict[int, int]) -> None:
    for pid in list(statuses):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        # Until its leader is reaped, the group's number cannot be reused: kill what the trainer left behind.
        _kill_group(pid)
        _, status = os.waitpid(pid, 0)
        pipe = statuses.pop(pid)
        _send(pipe, f"exit {os.waitstatus_to_exitcode(status)}\n")
        os.close(pipe)


def _seconds_left(deadlines: dict[int, float]) -> float | None:
    return max(0.0, min(deadlines.values()) - time.monotonic()) if deadlines else None


def _end_overdue(deadlines: dict[int, float], statuses: dict[int, int]) -> None:
    """Kill trainers whose lease has ended: another worker may have the job by now, and a job has one trainer."""
    for pid in [pid for pid, deadline in deadlines.items() if pid not in statuses or time.monotonic() >= deadline]:
        del deadlines[pid]
        if pid in statuses:
            _kill_group(pid)


def _lead_group(pid: int) -> None:
    """Make the child a group leader. Both sides of the fork do this, so that no signal to the group comes too early."""
    try:
        os.setpgid(pid, pid)
    except (ProcessLookupError, PermissionError):
        return


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _send(pipe: int, line: str) -> None:
    try:
        os.write(pipe, line.encode())
    except BrokenPipeError:
        return  # the worker no longer waits for this child


if __name__ == "__main__":
    main(sys.argv[1:])
