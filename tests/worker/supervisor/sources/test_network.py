"""A process that fetches connects to no inner address, whatever library does so and whatever name it has."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, socket, sys
from app.webhooks.addresses import AddressRefused, Reach
from worker.supervisor.sources.network import confine

server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
confine(Reach.parse(sys.argv[1]))

def plain():
    socket.create_connection(("localhost", port), timeout=5).close()

async def looped():
    _, writer = await asyncio.open_connection("localhost", port)
    writer.close()

def datagram():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))

for name, call in (("plain", plain), ("looped", lambda: asyncio.run(looped())), ("datagram", datagram)):
    try:
        call()
        print(name, "connected")
    except (AddressRefused, ExceptionGroup, OSError) as error:
        print(name, type(error).__name__)
"""


@pytest.mark.parametrize(
    ("allowed", "said"), [("", "AddressRefused"), ("10.0.0.0/8", "AddressRefused"), ("127.0.0.0/8", "connected")]
)
def test_connections_of_every_kind(allowed: str, said: str) -> None:
    """By plain sockets, an event loop, and without a connection."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, allowed], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain", said, "looped", said, "datagram", said], done.stderr
