"""Files of npm packages that tests hold our output against, each from one exact archive.

`python -m tools.npm_files NAME` fetches it into `.venv/npm_files`, once, and prints its path. Tests call `file(NAME)`.
No script of a package is run, and nothing that it depends on is fetched.
"""

import base64
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

PINS = Path(__file__).with_suffix(".toml")
BIN = Path(sys.prefix) / "bin"


class NpmFileError(Exception):
    """A file could not be had; the message says which, and why."""


def main(names: list[str]) -> int:
    try:
        for name in names:
            print(file(name))
    except NpmFileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def file(name: str) -> Path:
    """The file's path, fetched first where this version is not there yet. Raises NpmFileError."""
    pins = tomllib.loads(PINS.read_text(encoding="utf-8"))
    if name not in pins:
        raise NpmFileError(f"no file {name!r}; there are: {', '.join(pins)}")
    pin = pins[name]
    place = Path(sys.prefix) / "npm_files" / hashlib.sha256(repr(sorted(pin.items())).encode()).hexdigest()[:16]
    target = place / Path(pin["file"]).name
    if not target.exists():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found = Path(folder) / target.name
            found.write_bytes(member(archive(pin["package"], pin["integrity"], Path(folder)), pin["file"]))
            found.replace(target)  # test processes ask at the same time, and each brings the same bytes
    return target


def archive(package: str, integrity: str, folder: Path) -> Path:
    """The package's archive, with the pinned digest. Raises NpmFileError."""
    command = [
        str(BIN / "npm"),
        "pack",
        package,
        "--ignore-scripts",
        "--loglevel=error",
        f"--pack-destination={folder}",
    ]
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NpmFileError(f"npm does not run: {error}") from None
    if done.returncode != 0:
        raise NpmFileError(f"{package} could not be fetched; npm said:\n{done.stderr.strip()[-2_000:]}")
    (path,) = folder.glob("*.tgz")
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != integrity:
        raise NpmFileError(f"{package} has the digest {found} instead of {integrity}")
    return path


def member(archive: Path, name: str) -> bytes:
    """One file of the archive. Raises NpmFileError."""
    with tarfile.open(archive) as packed:
        try:
            content = packed.extractfile(name)
        except KeyError:
            content = None
        if content is None:
            raise NpmFileError(f"{archive.name} has no file {name}")
        return content.read()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
