"""What this worker runs, as the supervisor finds it on disk: digests of our own code and of the lock, versions."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Final

import app
import worker
from app.evidence.format.digest import sha256_file

#: Packages whose code a run's bits depend on.
TRAINING: Final = (
    "bitsandbytes",
    "compressed-tensors",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
_ROOT: Final = Path(app.__file__).parents[1]


@cache
def code_digest() -> str:
    """SHA-256 (hex) over our own modules: for each, in the order of paths, `<sha256>  <path>` and a line feed.

    `sha256sum` prints the same lines in the folder that holds `app` and `worker`. Computed once for a process.
    """
    folders = [Path(str(package.__file__)).parent for package in (app, worker)]
    modules = {path.relative_to(folder.parent).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    lines = (f"{hashlib.sha256(modules[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(modules))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@cache
def lock_digest() -> str | None:
    """SHA-256 of `requirements.lock` beside the code; None for an installation without it."""
    path = _ROOT / "requirements.lock"
    return sha256_file(path) if path.is_file() else None


@cache
def packages() -> dict[str, str]:
    """Versions of Python and of the packages that train, as installed, without importing them."""
    found = {"python": python_version()}
    for name in TRAINING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_installation() -> None:
    """Reads all of this now, as a worker does at its start: an upgrade on disk later is not the code that runs."""
    code_digest()
    lock_digest()
    packages()
