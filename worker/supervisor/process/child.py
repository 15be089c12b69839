"""Trainer processes from the worker's side: started through the forkserver, waited for, stopped as a whole group."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from worker.supervisor.process.environment import cleaned
from worker.supervisor.process.forkserver import LEASE, MESSAGE_BYTES, READY, ForkRequest
from worker.supervisor.process.tied import start_tied

ENTRY = "worker.trainer.main:run"
#: Imported once, before the first job; torch._dynamo too, since the first optimizer step imports it, which takes 1 s.
PRELOAD = ("torch", "torch._dynamo", "transformers", "worker.trainer.main")
#: Seconds that a forkserver may take to import its modules, on a cold disk.
WARM_SECONDS = 300.0


class ChildError(RuntimeError):
    """A trainer process could not be started."""


class Forkserver:
    """Starts a forkserver and forks trainers from it. `hidden` are paths that no trainer may read or write."""

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
        self._lifeline = -1
        self._warm = threading.Event()
        self.closed = False

    def warm(self) -> None:
        """Start the forkserver if it does not run, and return once it has imported its modules. Raises ChildError."""
        with self._lock:
            self._ensure()
            self._await_ready()

    def start(
        self,
        workspace: Path,
        *,
        environment: Mapping[str, str] | None = None,
        writable: Iterable[Path] = (),
        several: bool = False,
    ) -> "Child":
        """Fork a trainer that runs `entry` on `workspace`, with `environment` added to the cleaned one.

        It may write to the `writable` folders, too. `several` lets it be several processes that talk to each other over
        the loopback interface.
        """
        request = ForkRequest(
            entry=self.entry,
            workspace=str(workspace),
            environment=dict(environment or {}),
            hidden=self.hidden,
            writable=[str(path) for path in writable],
            several=several,
        )
        with self._lock:
            self._ensure()
            self._await_ready()
            return self._fork(request)

    def close(self) -> None:
        """End the forkserver. Trainers that still run end when their own handles are closed."""
        self.closed = True
        server = self._server
        if server is not None and not self._warm.is_set():
            server.kill()  # the thread that waits for its imports holds the lock
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
        own_end, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server_end:
            self._server, self._lifeline = start_tied(
                "worker.supervisor.process.forkserver",
                [str(server_end.fileno()), *self.preload],
                home=self.home,
                environment=cleaned(home=self.home),
                pass_fds=[server_end.fileno()],
            )
        self._channel = own_end
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

    def _fork(self, request: ForkRequest) -> "Child":
        assert self._channel is not None
        lifeline_end, lifeline = os.pipe2(os.O_CLOEXEC)
        status, status_end = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._channel, [request.to_bytes()], [lifeline_end, status_end])
        except OSError:
            os.close(lifeline)
            os.close(status)
            self._drop()
            raise ChildError("the forkserver has ended; the next attempt starts another") from None
        finally:
            os.close(lifeline_end)
            os.close(status_end)
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
            os.close(self._lifeline)
        self._server = self._channel = None
        self._warm.clear()


class Child:
    """One trainer process. Closing this handle closes its lifeline, which kills its whole process group."""

    def __init__(self, *, lifeline: int, status: int, channel: socket.socket) -> None:
        self._lifeline = lifeline
        self._status = status
        self._channel = channel
        self._until = 0.0
        self._buffer = b""
        self.code: int | None = None
        self.pid = 0
        self._await_pid()

    @property
    def alive(self) -> bool:
        return self.wait(0) is None

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code (negative: the signal that ended it), or None when it still runs after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.code is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._read_status(left):
                return None
        return self.code

    def extend_lease(self, until: float) -> None:
        """Let it live until this time of the monotonic clock. The forkserver kills it then if this process hangs."""
        if until != self._until:
            self._until = until
            with contextlib.suppress(OSError):  # a forkserver that has ended has no trainer either
                self._channel.send(b"%b %d %f" % (LEASE, self.pid, until))

    def terminate(self) -> None:
        """Ask it to save its state and stop (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self, grace: float) -> int:
        """End it: SIGTERM first, SIGKILL for its whole group after `grace` seconds. Returns the exit code."""
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

    def _await_pid(self) -> None:
        while self.pid == 0:
            if not self._read_status(WARM_SECONDS) or (self.code is not None and self.pid == 0):
                self.close()
                raise ChildError("the forkserver ended before it had forked the trainer")

    def _read_status(self, timeout: float | None) -> bool:
        """Read what the forkserver reports about this child; False when it reported nothing in time."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return False
        received = os.read(self._status, 256)
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        for line in lines:
            kind, _, number = line.partition(b" ")
            if kind == b"pid":
                self.pid = int(number)
            else:
                self.code = int(number)
        if not received and self.code is None:
            # The forkserver died, and no other process can report how the trainer ends: end it here.
            self.code = -signal.SIGKILL
            if self.pid:
                _kill_group(self.pid)
        return True

    def _signal(self, number: int) -> None:
        """Signal the whole group while its leader lives: the number of a reaped process may be another process's."""
        if self.alive:
            _kill_group(self.pid, number)


def _kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
