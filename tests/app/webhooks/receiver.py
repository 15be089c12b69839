"""A real receiver of webhooks on this machine, which answers as it is told and remembers what it got."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

from tests.patience import PATIENCE


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are given one by one, the last one for ever; a function gets the handler and does as it likes."""

    url: str = ""
    port: int = 0
    answers: list[int | tuple[int, dict[str, str]] | Callable[[Any], None]] = field(default_factory=lambda: [200])
    received: list[Received] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def wait(self, count: int = 1) -> list[Received]:
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE), "nothing arrived"
        return self.received


@contextmanager
def receiver(
    *answers: Any, host: str = "127.0.0.1", port: int = 0, tls: SSLContext | None = None
) -> Iterator[Receiver]:
    state = Receiver(answers=list(answers) or [200])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            state.received.append(Received(self.path, dict(self.headers.items()), body))
            state.arrived.release()
            if callable(answer):
                answer(self)
                return
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in {"content-length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None: ...  # a cut connection is what some tests are about

    server = Server((host, port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.port = server.server_address[1]
    state.url = f"{'https' if tls else 'http'}://{host}:{state.port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
