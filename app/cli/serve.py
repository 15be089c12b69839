"""`permafrost serve`: the API in this process and a worker in a child process, started and stopped together."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import socket
from types import FrameType
from typing import Final

import structlog
import uvicorn

from app.http.request_head import PARSER
from app.main import create_app
from app.settings import SECRETS, Settings

log = structlog.get_logger("app.cli.serve")

_PR_SET_PDEATHSIG: Final = 1
#: After a worker ran this long, the pause before its restart is back at the shortest.
_STEADY_SECONDS: Final = 60.0
_LONGEST_WAIT: Final = 30.0
#: How long open connections may take to end once the server stops.
_DRAIN_SECONDS: Final = 5


def serve(settings: Settings, *, with_worker: bool) -> None:
    """Migrate the database, then serve until SIGINT or SIGTERM. Returns after the worker has ended, too."""
    from migrations.upgrade import upgrade

    upgrade(settings.database)
    config = configured(settings)
    companion = Companion(settings) if with_worker else None
    if companion is not None:
        config.app.state.worker_problem = companion.problem  # type: ignore[union-attr]
    server = _Server(config, companion)
    # Objects created up to here live as long as the process: garbage collection need not look at them again.
    gc.collect()
    gc.freeze()
    try:
        server.run()
    except SystemExit:  # uvicorn could not listen, and has printed the reason
        hint = "--host and --port, or PERMAFROST_HOST and PERMAFROST_PORT, set another address"
        raise SystemExit(f"cannot listen on {settings.host}:{settings.port}; {hint}") from None
    finally:
        if companion is not None:
            companion.stop()


def configured(settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration, with the app."""
    return uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # app.http.access_log writes a line for every request, with its id
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        server_header=False,
        # Pinned: httptools, if installed, accepts a head of any size, and uvloop serves busy pollers unevenly.
        **PARSER,
        loop="asyncio",
    )


class _Server(uvicorn.Server):
    """A uvicorn server that starts the worker once it listens, and ends streams before it waits for connections."""

    def __init__(self, config: uvicorn.Config, companion: "Companion | None") -> None:
        super().__init__(config)
        self._companion = companion

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            if self._companion is not None:
                self._companion.start()
            self._print_address()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        if self._companion is not None:
            self._companion.signal()  # its trainers save their state while connections drain
        await self.config.app.state.watcher.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike uvicorn's own handler, this one does not raise the signal again: the worker must still be stopped.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _print_address(self) -> None:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"permafrost ready: {url}/v1  documentation {url}/docs  dashboard {url}/", flush=True)


@dataclass(slots=True)
class Companion:
    """The worker as a child process, restarted after a growing pause when it dies."""

    settings: Settings
    _process: subprocess.Popen[bytes] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _started: float = 0.0
    _code: int = 0
    #: How often it has ended by itself without having lived for a while.
    _deaths: int = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="companion", daemon=True)
        self._thread.start()

    def signal(self) -> None:
        """Ask the worker to drain, and stop restarting it."""
        self._stopping.set()
        with self._starting:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()

    def stop(self) -> None:
        """Wait until the worker has ended; kill it 10 s after PERMAFROST_GRACE_SECONDS."""
        self.signal()
        if self._process is not None:
            try:
                self._process.wait(self.settings.grace_seconds + 10)
            except subprocess.TimeoutExpired:
                log.warning("the worker does not end; killing it", pid=self._process.pid)
                self._process.kill()
        if self._thread is not None:
            self._thread.join()

    def problem(self) -> str | None:
        """Why jobs are not run at the moment, in a sentence, or None.

        A worker that has ended once is well when it runs again; one that ended repeatedly, when it has lived a while.
        """
        running = self._process is not None and self._process.poll() is None
        if self._deaths == 0 or (running and (self._deaths == 1 or self._is_steady())):
            return None
        times = "once" if self._deaths == 1 else f"{self._deaths} times in a row"
        return f"the worker ended by itself with exit code {self._code}, {times}; it is started again, see its log"

    def _watch(self) -> None:
        while not self._stopping.is_set():
            with self._starting:
                if self._stopping.is_set():
                    return
                self._started = time.monotonic()
                self._process = process = start_worker(self.settings)
            code = process.wait()
            if self._stopping.is_set():
                return

            self._code, self._deaths = code, 1 if self._is_steady() else self._deaths + 1
            pause = min(2.0 ** min(self._deaths - 1, 5), _LONGEST_WAIT)
            log.error("the worker ended and is started again", code=code, times=self._deaths, seconds=pause)
            self._stopping.wait(pause)

    def _is_steady(self) -> bool:
        return time.monotonic() - self._started > _STEADY_SECONDS


def start_worker(settings: Settings) -> subprocess.Popen[bytes]:
    """Start `python -P -m worker` with these settings, in its own session: Ctrl-C reaches this process only."""
    return subprocess.Popen(
        # -P: no module is looked for in the folder that this was started in, whose files may be anybody's.
        [sys.executable, "-P", "-m", "worker"],
        env=_without_sign_in(os.environ) | environment(settings),
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, with an absolute data folder: trainers have other working folders."""
    # The worker reads files of secrets by itself, so their values stay out of its environment.
    variables = {
        name: getattr(settings, name)
        for name in settings.model_fields_set
        if not (SECRETS / f"permafrost_{name}").exists() and not name.startswith("oidc_")
    }
    return {f"PERMAFROST_{name.upper()}": str(value) for name, value in variables.items()} | {
        "PERMAFROST_DATA_DIR": str(settings.home)
    }


def _without_sign_in(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of the worker, without the client secret for the sign-in provider, which it does not need."""
    return {name: value for name, value in variables.items() if not name.upper().startswith("PERMAFROST_OIDC_")}


def _die_with_parent() -> None:
    """Make the kernel send SIGTERM to the worker when `serve` is killed. Runs in the child before exec.

    The kernel sends the signal when the *thread* that forked ends; that thread lives as long as it watches the worker.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
