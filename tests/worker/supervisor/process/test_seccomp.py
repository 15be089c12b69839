"""A trainer can make no socket that reaches beyond its machine, whatever the protocol and however it asks."""

import json
import subprocess
import sys

import pytest

from tests.patience import PATIENCE
from worker.supervisor.process import seccomp

PROBE = """
import ctypes, json, os, socket, subprocess, sys
from worker.supervisor.process.seccomp import forbid_network

def works(make):
    try:
        make()
    except OSError:
        return False
    return True

families = ("AF_INET", "AF_INET6", "AF_PACKET", "AF_VSOCK", "AF_UNIX", "AF_NETLINK")
kinds = {"AF_PACKET": socket.SOCK_RAW, "AF_VSOCK": socket.SOCK_STREAM, "AF_NETLINK": socket.SOCK_RAW}
def make(name):
    return works(lambda: socket.socket(getattr(socket, name), kinds.get(name, socket.SOCK_DGRAM)).close())

def seen():
    found = {name: make(name) for name in families}
    found["pair"] = works(lambda: socket.socketpair())
    ring = ctypes.CDLL(None, use_errno=True).syscall(425, 1, ctypes.create_string_buffer(120))
    found["ring"] = ring >= 0
    return found

if len(sys.argv) > 1:
    print(json.dumps(seen()))
    sys.exit()
before = seen()
taken = forbid_network()
after = seen()
command = [sys.executable, sys.argv[0], "child"]
child = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
print(json.dumps([before, taken, after, child]))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bool], bool, dict[str, bool], dict[str, bool]]:
    """What could be made before, whether the filter was taken, and what could be made after, also by a child."""
    script = tmp_path_factory.mktemp("seccomp") / "probe.py"
    script.write_text(PROBE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE, check=True)
    before, taken, after, child = json.loads(done.stdout)
    return before, taken, after, child


def test_only_local_sockets_are_left(seen) -> None:
    """Internet sockets of every kind are refused, and rings with them; local ones and pairs go on working."""
    before, taken, after, child = seen
    if not taken:
        pytest.skip("NO SECCOMP: this kernel or machine has none")
    assert before["AF_INET"] and before["AF_UNIX"], "the probe could make sockets, or it would show nothing"
    assert after == child
    assert {name for name, works in after.items() if works} == {"AF_UNIX", "AF_NETLINK", "pair"}


def test_other_machines_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the numbers of system calls are not known, nothing is claimed."""
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "s390x")  # type: ignore[attr-defined]
    assert not seccomp.forbid_network()
