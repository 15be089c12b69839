"""A process with the trainer's modules imported that forks a trainer on request.

Started as `python -P -s -m worker.supervisor.process.forkserver FD` from a cleaned environment. It has one thread, ends
when the worker's end of its channel closes, and reaps what it forked.
"""

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

#: The message that tells the worker that every module is imported.
READY = b"ready"
#: `lease PID SECONDS`: the trainer is killed when the monotonic clock shows this, unless the worker speaks again.
LEASE = b"lease"
MESSAGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """What the worker asks for: call `entry` ("module:function") with the workspace, in a process of its own.

    `hidden` are the folders and files that this process is not to see; `several` allows several processes
    that talk to each other.
    """

    entry: str
    workspace: str
    environment: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    several: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        return cls(**json.loads(message))


def main(arguments: Sequence[str]) -> None:
    channel = socket.socket(fileno=int(arguments[0]))
    for name in arguments[1:]:
        importlib.import_module(name)
    # What is imported is shared by every trainer: leave it out of their garbage collections.
    gc.collect()
    gc.freeze()
    birth = serve(channel)
    if birth is not None:
        os._exit(run(birth))


def serve(channel: socket.socket) -> ForkRequest | None:
    """Forks until the worker is gone (None). In the forked process it returns that process's own order instead."""
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
        _end_overdue(deadlines, statuses)
        if wake in ready:
            os.read(wake, MESSAGE_BYTES)
            _reap(statuses)
        if channel.fileno() not in ready:
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
            for descriptor in (channel.detach(), wake, waker, status, *statuses.values()):
                os.close(descriptor)
            birth = ForkRequest.from_bytes(message)
            hidden = [Path(each) for each in birth.hidden]
            confine(Path(birth.workspace), lifeline=lifeline, hidden=hidden, several=birth.several)
            return birth
        _lead_group(pid)
        os.close(lifeline)
        statuses[pid] = status
        _tell(status, f"pid {pid}\n")


def run(birth: ForkRequest) -> int:
    """The exit code that the interpreter would give. Its own teardown takes 0.3 s, for copying what it then drops."""
    os.environ.update(birth.environment)
    module, _, function = birth.entry.partition(":")
    try:
        getattr(importlib.import_module(module), function)(Path(birth.workspace))
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # as the interpreter does with what nobody caught
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _reap(statuses: dict[int, int]) -> None:
    for pid in list(statuses):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        # While its leader is not reaped, the group's number belongs to nobody else: end what the trainer left behind.
        _kill_group(pid)
        _, status = os.waitpid(pid, 0)
        pipe = statuses.pop(pid)
        _tell(pipe, f"exit {os.waitstatus_to_exitcode(status)}\n")
        os.close(pipe)


def _seconds_left(deadlines: dict[int, float]) -> float | None:
    return max(0.0, min(deadlines.values()) - time.monotonic()) if deadlines else None


def _end_overdue(deadlines: dict[int, float], statuses: dict[int, int]) -> None:
    """Another worker may have the job by now, and one job has one trainer."""
    for pid in [each for each, deadline in deadlines.items() if each not in statuses or time.monotonic() >= deadline]:
        del deadlines[pid]
        if pid in statuses:
            _kill_group(pid)


def _lead_group(pid: int) -> None:
    """Both sides of the fork do this, so that no signal to the group comes too early."""
    try:
        os.setpgid(pid, pid)
    except (ProcessLookupError, PermissionError):
        return


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _tell(pipe: int, line: str) -> None:
    try:
        os.write(pipe, line.encode())
    except BrokenPipeError:
        return  # the worker no longer waits for this child


if __name__ == "__main__":
    main(sys.argv[1:])
