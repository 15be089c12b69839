"""Starts the ranks of a job on one machine: forked from this process, and ended together.

They get the environment that torchrun would give them, so the trainer is the same either way. A fork shares what is
already imported, so a rank starts in milliseconds. It stays in this process's group, which signals reach as a whole and
which ends with its worker.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.protocol import EXIT_DONE, EXIT_FAILED, EXIT_SIGNALLED, EXIT_STOPPED, Reporter, Workspace

STORE = "PERMAFROST_RANKS"  # environment variable: path of the file through which the ranks find each other
GRACE_SECONDS = 10.0  # for the other ranks to write their own errors, once one has failed
GOOD = (EXIT_DONE, EXIT_STOPPED)

Work = Callable[[Path], None]


@dataclass(slots=True)
class Rank:
    """One process. Its descriptor, unlike its process id, can never come to mean another process."""

    number: int
    pid: int
    descriptor: int
    code: int | None = None
    killed: bool = False  # by us, because another rank failed

    def signal(self, number: int) -> None:
        if self.code is None:
            signal.pidfd_send_signal(self.descriptor, number)

    def reap(self) -> int:
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.descriptor)
        return self.code


def launch(workspace: Workspace, size: int, work: Work) -> int:
    """Run `work` in `size` processes, wait for all, and return one exit code for all of them.

    The first one that fails ends the others: at once if a signal ended it, after `GRACE_SECONDS` if it exited.
    """
    store = workspace.root / ".ranks"
    store.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    ranks = [_fork(workspace, number, size, store, work) for number in range(size)]
    failure = EXIT_DONE
    with _passing_on_sigterm(ranks):
        for rank in _endings(ranks):
            assert rank.code is not None
            if rank.code not in GOOD and not rank.killed:
                failure = failure or rank.code
                _report_signal(workspace, rank, size)
    store.unlink(missing_ok=True)
    if failure:
        return failure if failure > 0 else EXIT_SIGNALLED - failure
    return EXIT_STOPPED if any(rank.code == EXIT_STOPPED for rank in ranks) else EXIT_DONE


def _fork(workspace: Workspace, number: int, size: int, store: Path, work: Work) -> Rank:
    pid = os.fork()
    if pid:
        return Rank(number, pid, os.pidfd_open(pid))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        STORE: str(store),
        # Their exchange stays on this machine.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    os._exit(exit_code(workspace, work))


def exit_code(workspace: Workspace, work: Work) -> int:
    """Run `work` in this process; returns the exit code that the interpreter would give."""
    try:
        work(workspace.root)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does with an uncaught exception
        traceback.print_exc()
        return EXIT_FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return EXIT_DONE


def _endings(ranks: Sequence[Rank]) -> Iterator[Rank]:
    """Each rank as it ends. When one has failed, those still running at the deadline are killed."""
    running = {rank.descriptor: rank for rank in ranks}
    poll = select.poll()
    for descriptor in running:
        poll.register(descriptor, select.POLLIN)
    deadline: float | None = None
    while running:
        ready = poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            deadline = None
            for rank in running.values():
                rank.killed = True
                rank.signal(signal.SIGKILL)
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            rank = running.pop(descriptor)
            code = rank.reap()
            if code not in GOOD and not rank.killed:
                soon = time.monotonic() + (GRACE_SECONDS if code > 0 else 0.0)
                deadline = soon if deadline is None else min(deadline, soon)
            yield rank


@contextmanager
def _passing_on_sigterm(ranks: Sequence[Rank]) -> Iterator[None]:
    """Pass SIGTERM on to the ranks, in case it was sent to this process and not to the whole group."""

    def pass_on(*_: Any) -> None:
        for rank in ranks:
            rank.signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report_signal(workspace: Workspace, rank: Rank, size: int) -> None:
    """Report a rank that a signal ended, since it could not do so itself."""
    if rank.code is None or rank.code >= 0:
        return
    message = f"rank {rank.number} of {size} was ended by signal {-rank.code}"
    print(message, flush=True)
    with Reporter(workspace.reports) as reporter:
        reporter.event(message, level="warn", rank=rank.number, signal=-rank.code)
