"""Results of frozen layers that the jobs of a project share on this worker: a folder per project, and its limit.

Only trainers read and write them. A folder per project keeps projects apart: no job can find, or be sped up by, what
another project's data left, and a trainer that writes wrong results misleads its own project alone.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from app.settings import Settings

log = structlog.get_logger(__name__)

#: Of the limit, the share that may be in use when a job begins, so that it has room for its own results.
LEFT: Final = 0.75


@dataclass(frozen=True, slots=True)
class SharedResults:
    """A project's folder, and the bytes that one job may add."""

    folder: Path
    room: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """The results of one prefix."""

    path: Path
    nbytes: int
    used_at: float


class PrefixFolders:
    """The folders of every project below one, with a limit for all of them together. `slots`: jobs at a time."""

    def __init__(self, settings: Settings, *, slots: int) -> None:
        self.root = settings.prefix_cache
        self.limit = settings.prefix_cache_bytes
        self._slots = max(1, slots)
        self._lock = threading.Lock()

    def of_project(self, project: str) -> SharedResults | None:
        """The project's folder, with room made for a job; None where nothing is to be kept.

        A folder that cannot be made is given all the same: the trainer finds out, and tells the job's owner.
        """
        if not self.limit:
            return None
        folder = self.root / hashlib.sha256(project.encode()).hexdigest()[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            log.warning("results of frozen layers cannot be kept for other jobs", error=str(error))
        size = self.shrink(to=LEFT)
        return SharedResults(folder, max(0, self.limit - size) // self._slots)

    def forget(self, *, days: float) -> None:
        """Remove what no job has used for so many days."""
        oldest = time.time() - days * 86_400
        with self._lock:
            for path in (path for project in _children(self.root) for path in _children(project)):
                with suppress(OSError):
                    if _used_at(path) < oldest:
                        _remove(path)

    def shrink(self, *, to: float = 1.0) -> int:
        """Remove what was used least recently until this share of the limit holds the rest; returns its bytes."""
        with self._lock:
            entries = sorted(_entries(self.root), key=lambda entry: entry.used_at)
            size = sum(entry.nbytes for entry in entries)
            for entry in entries:
                if size <= self.limit * to:
                    break
                _remove(entry.path)
                size -= entry.nbytes
            return size


def _entries(root: Path) -> Iterator[_Entry]:
    """What is in the projects' folders."""
    for project in _children(root):
        for path in _children(project):
            with suppress(OSError):
                yield _Entry(path, _nbytes(path), _used_at(path))


def _used_at(path: Path) -> float:
    """When a job used it last. A time to come, which only a lying trainer writes, is the least recent."""
    changed = path.lstat().st_mtime
    return changed if changed <= time.time() else 0.0


def _children(folder: Path) -> list[Path]:
    """What is in a folder; nothing is in a link."""
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except OSError:
        return []


def _nbytes(path: Path) -> int:
    """Bytes on the disk, without following links."""
    paths = [path]
    for folder, _, names in os.walk(path, followlinks=False):
        paths += [Path(folder, name) for name in names]
    total = 0
    for each in paths:
        with suppress(OSError):
            total += each.lstat().st_blocks * 512
    return total


def _remove(path: Path) -> None:
    """A job that reads it has its files open, and goes on."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
