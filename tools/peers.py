"""Programs and packages that tests and benchmarks need and our own environment must not have, each in one of its own.

`python -m tools.peers NAME` makes `.venv/peers/NAME` from the exact versions in `tools/peers.toml`, once, and prints
the path of its command, or of its packages. Tests and benchmarks call `command(NAME)` and `packages(NAME)`.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).with_suffix(".toml")


class PeerError(Exception):
    """A peer could not be had; the message says which, and what pip said."""


@dataclass(frozen=True)
class Peer:
    """`runs` is its command, where it has one; `versions` are pip's requirements, each exact.

    `any_python`: it runs on ours, though it asks for a newer one.
    """

    name: str
    runs: str | None
    versions: tuple[str, ...]
    any_python: bool = False

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.runs, *self.versions]).encode()).hexdigest()


def main(names: list[str]) -> int:
    try:
        for name in names:
            print(command(name) if wanted(name).runs else packages(name))
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def command(name: str) -> Path:
    """The peer's command, installed first where it is not yet, or not in these versions. Raises PeerError."""
    runs = wanted(name).runs
    if runs is None:
        raise PeerError(f"{name} has no command")
    return environment(name) / "bin" / runs


def packages(name: str) -> Path:
    """The folder of the peer's packages, for PYTHONPATH of a process that needs them beside ours. Raises PeerError."""
    return environment(name) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def environment(name: str) -> Path:
    peer, home = wanted(name), Path(sys.prefix) / "peers"
    place = home / name
    home.mkdir(parents=True, exist_ok=True)
    with alone(home / f"{name}.lock"):  # test processes ask at the same time
        if not ready(place, peer):
            install(peer, place)
    return place


def wanted(name: str) -> Peer:
    known = tomllib.loads(PINS.read_text(encoding="utf-8"))
    if name not in known:
        raise PeerError(f"no peer {name!r}; there are: {', '.join(known)}")
    pins = known[name]
    return Peer(name, pins.get("command"), tuple(pins["versions"]), pins.get("any_python", False))


def ready(place: Path, peer: Peer) -> bool:
    marker = place / ".ready"
    return marker.is_file() and marker.read_text() == peer.fingerprint


def install(peer: Peer, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # left by an install that was interrupted, or of other versions
    run(peer, [sys.executable, "-m", "venv", "--without-pip", str(place)])
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "--disable-pip-version-check"]
    options = ["-qq", "--no-compile", *(["--ignore-requires-python"] if peer.any_python else [])]
    run(peer, [*pip, "install", *options, *peer.versions])  # most of a peer's modules are never imported
    (place / ".ready").write_text(peer.fingerprint)


def run(peer: Peer, line: list[str]) -> None:
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2_000:]
        raise PeerError(f"{peer.name} could not be installed; {' '.join(line[:4])} … said:\n{said}")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
