"""Trainer processes as the worker sees them: started through the forkserver, waited for, stopped as a whole group."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from worker.supervisor.process.environment import cleaned
from worker.supervisor.process.forkserver import LEASE, MESSAGE_BYTES, READY, ForkRequest

ENTRY = "worker.trainer.main:run"
#: Imported once, before the first job. The first optimizer step would import torch._dynamo, for a second.
PRELOAD = ("torch", "torch._dynamo", "transformers", "worker.trainer.main")
#: Importing torch on a cold disk takes a while; a forkserver that is still silent then is broken.
WARM_SECONDS = 300.0


class ChildError(RuntimeError):
    """The trainer's process could not be started."""


class Forkserver:
    """One forkserver, started at worker start, and the children it forks. `hidden` is what no child gets to see."""

    def __init__(
        self, *, home: Path, hidden: Iterable[Path] = (), entry: str = ENTRY, preload: Sequence[str] = PRELOAD
    ) -> None:
        self.home = home
        self.hidden = [str(path) for path in hidden]
        self.entry = entry
        self.preload = tuple(preload)
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._warm = threading.Event()
        self.closed = False

    def warm(self) -> None:
        """Starts the forkserver if there is none and returns once it has imported everything."""
        with self._lock:
            self._ensure()
            self._await_ready()

    def start(self, workspace: Path, *, environment: Mapping[str, str] | None = None, several: bool = False) -> "Child":
        """Forks a trainer that runs `entry` on `workspace`, with `environment` on top of the cleaned one.

        `several` when it will be several processes, which have to reach each other.
        """
        birth = ForkRequest(
            entry=self.entry,
            workspace=str(workspace),
            environment=dict(environment or {}),
            hidden=self.hidden,
            several=several,
        )
        with self._lock:
            self._ensure()
            self._await_ready()
            return self._fork(birth)

    def close(self) -> None:
        """Ends the forkserver; trainers that still run end too once their handles are closed."""
        self.closed = True
        server = self._server
        if server is not None and not self._warm.is_set():
            server.kill()  # whoever waits for its imports holds the lock
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ensure(self) -> None:
        if self.closed:
            raise ChildError("this worker is stopping and starts no trainers any more")
        if self._server is not None and self._server.poll() is None:
            return
        self._drop()
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # no modules from its working folder
                    "-s",  # nor from its home: trainers may write there, and this process is not in their sandbox
                    "-m",
                    "worker.supervisor.process.forkserver",
                    str(theirs.fileno()),
                    *self.preload,
                ],
                env=cleaned(home=self.home),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A Ctrl-C in the terminal is the worker's to handle: it stops its trainers in order.
                start_new_session=True,
            )
        self._channel = ours
        self._warm.clear()

    def _await_ready(self) -> None:
        if self._warm.is_set():
            return
        assert self._channel is not None
        self._channel.settimeout(WARM_SECONDS)
        with contextlib.suppress(TimeoutError, ConnectionError):
            if self._channel.recv(MESSAGE_BYTES) == READY:
                self._warm.set()
        if not self._warm.is_set():
            self._drop()
            if self.closed:
                raise ChildError("this worker stopped before the forkserver had imported everything")
            raise ChildError(
                f"the forkserver could not import {', '.join(self.preload)}; the worker's own log shows why"
            )

    def _fork(self, birth: ForkRequest) -> "Child":
        assert self._channel is not None
        heard, lifeline = os.pipe2(os.O_CLOEXEC)
        status, told = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._channel, [birth.to_bytes()], [heard, told])
        except OSError:
            os.close(lifeline)
            os.close(status)
            self._drop()
            raise ChildError("the forkserver is gone; the next start brings up another") from None
        finally:
            os.close(heard)
            os.close(told)
        return Child(lifeline=lifeline, status=status, channel=self._channel)

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._server is not None:
            # It ends by itself when its channel closes, unless it is still importing.
            try:
                self._server.wait(1.0)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._server = self._channel = None
        self._warm.clear()


class Child:
    """One trainer. It lives no longer than this handle's lifeline: closing it kills the whole process group."""

    def __init__(self, *, lifeline: int, status: int, channel: socket.socket) -> None:
        self._lifeline = lifeline
        self._status = status
        self._channel = channel
        self._until = 0.0
        self._heard = b""
        self.code: int | None = None
        self.pid = 0
        self._born()

    @property
    def alive(self) -> bool:
        return self.wait(0) is None

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code (negative: the signal that ended it), or None when it still runs after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.code is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._listen(left):
                return None
        return self.code

    def extend_lease(self, until: float) -> None:
        """It may live until the monotonic clock shows this, also when nobody in this process can say so any more."""
        if until != self._until:
            self._until = until
            with contextlib.suppress(OSError):  # a forkserver that is gone has no trainer to keep
                self._channel.send(b"%b %d %f" % (LEASE, self.pid, until))

    def terminate(self) -> None:
        """Asks it to save its state and stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self, grace: float) -> int:
        """Ends it for certain: asked first, killed with its whole group after `grace` seconds."""
        self.terminate()
        if self.wait(grace) is None:
            self.kill()
        code = self.wait()
        assert code is not None
        return code

    def close(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            os.close(self._status)
            self._lifeline = self._status = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _born(self) -> None:
        while self.pid == 0:
            if not self._listen(WARM_SECONDS) or (self.code is not None and self.pid == 0):
                self.close()
                raise ChildError("the forkserver ended before it had forked the trainer")

    def _listen(self, timeout: float | None) -> bool:
        """Takes in what the forkserver says about this child; False when it said nothing in time."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return False
        heard = os.read(self._status, 256)
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            what, _, number = line.partition(b" ")
            if what == b"pid":
                self.pid = int(number)
            else:
                self.code = int(number)
        if not heard and self.code is None:
            # The forkserver died, and nobody else will say how the trainer ends: end it here.
            self.code = -signal.SIGKILL
            if self.pid:
                _kill_group(self.pid)
        return True

    def _signal(self, number: int) -> None:
        """To the whole group, while its leader is known to live: a number that was reaped may be another process's."""
        if self.alive:
            _kill_group(self.pid, number)


def _kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
