"""Several processes for one job on one machine: forked from this one, and ended together.

They get the environment that torchrun would give them, so the trainer does not know which of the two started it. A
fork shares what is already imported: a rank is there in milliseconds, and stays in this process's group, which a signal
reaches as a whole and which dies with its worker.
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

STORE = "PERMAFROST_RANKS"  # the file by which the ranks find each other
GRACE_SECONDS = 10.0  # for the others' own words, once a rank has ended in a failure
GOOD = (EXIT_DONE, EXIT_STOPPED)

Work = Callable[[Path], None]


@dataclass(slots=True)
class Rank:
    """One process. Its descriptor, unlike its number, can never mean another process."""

    number: int
    pid: int
    descriptor: int
    code: int | None = None
    unwanted: bool = False  # ended from here, for another's sake

    def signal(self, number: int) -> None:
        if self.code is None:
            signal.pidfd_send_signal(self.descriptor, number)

    def reap(self) -> int:
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.descriptor)
        return self.code


def launch(place: Workspace, size: int, work: Work) -> int:
    """Run `work` in `size` processes and wait for all; the exit code that speaks for them.

    The first that ends badly ends all: by a signal at once, with a code after a moment for the others' own words.
    """
    store = place.root / ".ranks"
    store.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    ranks = [_fork(place, number, size, store, work) for number in range(size)]
    bad = EXIT_DONE
    with _passing_on_sigterm(ranks):
        for rank in _endings(ranks):
            assert rank.code is not None
            if rank.code not in GOOD and not rank.unwanted:
                bad = bad or rank.code
                _tell(place, rank, size)
    store.unlink(missing_ok=True)
    if bad:
        return bad if bad > 0 else EXIT_SIGNALLED - bad
    return EXIT_STOPPED if any(rank.code == EXIT_STOPPED for rank in ranks) else EXIT_DONE


def _fork(place: Workspace, number: int, size: int, store: Path, work: Work) -> Rank:
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
        # What they say to each other stays on this machine.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    os._exit(_run(place, work))


def _run(place: Workspace, work: Work) -> int:
    """The exit code that the interpreter would give."""
    try:
        work(place.root)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # as the interpreter does with what nobody caught
        traceback.print_exc()
        return EXIT_FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return EXIT_DONE


def _endings(ranks: Sequence[Rank]) -> Iterator[Rank]:
    """Each as it ends; those that are left when one has ended badly are killed."""
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
                rank.unwanted = True
                rank.signal(signal.SIGKILL)
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            rank = running.pop(descriptor)
            code = rank.reap()
            if code not in GOOD and not rank.unwanted:
                soon = time.monotonic() + (GRACE_SECONDS if code > 0 else 0.0)
                deadline = soon if deadline is None else min(deadline, soon)
            yield rank


@contextmanager
def _passing_on_sigterm(ranks: Sequence[Rank]) -> Iterator[None]:
    """As a rule the whole group gets the signal; where only this process does, the ranks get it from here."""

    def pass_on(*_: Any) -> None:
        for rank in ranks:
            rank.signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(place: Workspace, rank: Rank, size: int) -> None:
    """A rank that was killed cannot say so itself."""
    if rank.code is None or rank.code >= 0:
        return
    message = f"rank {rank.number} of {size} was ended by signal {-rank.code}"
    print(message, flush=True)
    with Reporter(place.reports) as reporter:
        reporter.event(message, level="warn", rank=rank.number, signal=-rank.code)
