"""`python -m benchmarks.watchers URL --connections N`: readers of one event stream, in a process of their own.

Prints a line once all are connected; and at the end of the stream one more, with how many events each got.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping
from urllib.parse import urlsplit


async def run(url: str, *, connections: int, headers: Mapping[str, str]) -> list[int]:
    """Events that each reader got by the time the server ended its stream."""
    parts = urlsplit(url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.0", f"host: {parts.netloc}"]
    request = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
    streams = []
    for _ in range(connections):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"the server answered {head!r}")
        streams.append((reader, writer))
    print(json.dumps({"connected": len(streams)}), flush=True)
    return await asyncio.gather(*(events(reader) for reader, _ in streams))


async def events(reader: asyncio.StreamReader) -> int:
    count = 0
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            return count
        count += line.startswith(b"data: ")
    raise RuntimeError(f"a stream broke off after {count} events")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watchers", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--headers", type=json.loads, default={})
    given = parser.parse_args()
    counts = asyncio.run(run(given.url, connections=given.connections, headers=given.headers))
    print(json.dumps({"fewest": min(counts), "most": max(counts)}), flush=True)


if __name__ == "__main__":
    main()
