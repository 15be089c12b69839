"""`python -m benchmarks.pollers URL --connections N --seconds S`: clients that ask again once they have an answer.

In a process of its own, so that asking does not slow the server that answers. Prints one JSON object.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Load:
    """What the pollers met: answers per second, and milliseconds from asking to the last byte."""

    answers: int
    per_second: float
    median_ms: float
    p99_ms: float


def poll(url: str, *, connections: int, seconds: float, headers: Mapping[str, str] | None = None) -> Load:
    """Runs the pollers in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.pollers", url]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--headers", json.dumps(headers or {})]
    return Load(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


class Poller(asyncio.Protocol):
    """One keep-alive connection. Anything but a 200 with a length ends the benchmark."""

    def __init__(self, request: bytes, milliseconds: list[float], until: float) -> None:
        self.request, self.milliseconds, self.until = request, milliseconds, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer, self.length = b"", -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.length < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.length = end + 4 + self._body(self.buffer[:end].lower())
        if len(self.buffer) >= self.length:
            now = time.perf_counter()
            self.milliseconds.append((now - self.began) * 1e3)
            if now < self.until:
                self._ask()
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _ask(self) -> None:
        self.buffer, self.length = b"", -1
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def _body(self, head: bytes) -> int:
        """The body's length, from a head in lower case."""
        found = head.split(b"content-length:", 1)
        if b" 200 " not in head[:16] or len(found) == 1:
            self.done.set_exception(RuntimeError(f"the server answered {head!r}"))
            self.transport.close()
            return 0
        return int(found[1].split(b"\r\n", 1)[0])


async def run(url: str, *, connections: int, seconds: float, headers: Mapping[str, str]) -> Load:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    lines = [f"GET {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1", f"host: {parts.netloc}"]
    request = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
    milliseconds: list[float] = []
    began = time.perf_counter()
    pollers = [Poller(request, milliseconds, began + seconds) for _ in range(connections)]
    loop = asyncio.get_running_loop()
    for poller in pollers:
        await loop.create_connection(lambda made=poller: made, host, port)  # type: ignore[misc]
    await asyncio.gather(*(poller.done for poller in pollers))
    rate = len(milliseconds) / (time.perf_counter() - began)
    return Load(len(milliseconds), rate, statistics.median(milliseconds), statistics.quantiles(milliseconds, n=100)[98])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pollers", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--headers", type=json.loads, default={})
    given = parser.parse_args()
    load = asyncio.run(run(given.url, connections=given.connections, seconds=given.seconds, headers=given.headers))
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
