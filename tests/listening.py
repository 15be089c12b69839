"""HTTP servers of tests, on loopback and on a port of their own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *_: object) -> None: ...


@contextmanager
def listening(handler: Callable[..., Any] | HTTPServer) -> Iterator[str]:
    """The URL, without a path, of a server that answers during the block: one of this handler, or one that is given."""
    server = handler if isinstance(handler, HTTPServer) else ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # Often, because a server is stopped between two looks.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
