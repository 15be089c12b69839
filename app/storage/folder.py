"""Blobs as files of a folder, local or shared. A file appears complete under its name, or not at all."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from app.storage.stored_file import StoredFile


class FolderStore:
    """Files below `root`. Files that are being written are in `incoming`, on the same file system.

    A published file is never written to, renamed or dated again while it is in use: processes that read it take a new
    modification time for a change, and a sandboxed trainer may only open the very file that was staged for it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)

    def publish(self, temporary: Path, key: str, *, again: str) -> None:
        """Moves a flushed file of `incoming` to its name. A file that exists stays as it is: `again` is marked."""
        target = self.root / key
        with self._locked(key):
            with suppress(FileNotFoundError):
                if target.stat().st_size == temporary.stat().st_size:
                    self.mark(again)
                    # Where locks do not work, it may have been removed before the mark was there.
                    if target.exists():
                        return

            created = [folder for folder in (target.parent, target.parent.parent) if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.chmod(0o444)
            temporary.replace(target)
            for folder in (target.parent, *(folder.parent for folder in created)):
                sync_folder(folder)

    def mark(self, key: str) -> None:
        """Creates an empty file with the current time, or gives it the current time."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def write(self, key: str, data: bytes) -> None:
        """Writes a file of any name, in the place of the one before."""
        handle, name = tempfile.mkstemp(dir=self.incoming)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.put(temporary, key)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, temporary: Path, key: str) -> None:
        """Moves a flushed file of `incoming` to any name, in the place of the one before."""
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o644)
        temporary.replace(target)

    def open(self, key: str) -> BinaryIO:
        return (self.root / key).open("rb")

    def fetch(self, key: str, to: Path) -> None:
        """Makes `to` a symbolic link to the file."""
        if not (self.root / key).is_file():
            raise FileNotFoundError(key)
        to.symlink_to(self.root / key)

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def remove_unless_marked(self, key: str, *, again: str, since: float) -> bool:
        """Removes a blob and its mark, unless it was marked after `since`. Publishers wait for it meanwhile."""
        target, aside = self.root / key, self.root / "quarantine" / key
        with self._locked(key):
            if self._marked(again) > since:
                return False

            aside.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                target.rename(aside)  # a process that dies here leaves it where the doctor finds it
                # Where locks do not work, a publisher may have found the file just before it was renamed.
                marked_again = self._marked(again) > since
                if marked_again:
                    with suppress(FileExistsError):  # published again by now
                        os.link(aside, target)
                aside.unlink()
                if marked_again:
                    return False
            self.remove(again)
        return True

    def move(self, key: str, to: str) -> None:
        """Renames a file and gives it the current time."""
        target = self.root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).rename(target)
        os.utime(target)
        for folder in (target.parent, (self.root / key).parent):
            sync_folder(folder)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """Every file below a folder of the store, except for files that disappear meanwhile."""
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder) / name
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    yield StoredFile(str(path.relative_to(self.root)), status.st_size, status.st_mtime)

    def _marked(self, key: str) -> float:
        try:
            return (self.root / key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Publishers and removers of one blob take turns, so that no reader ever finds a wanted blob missing."""
        path = self.root / "locks" / Path(key).name[:2]
        with ExitStack() as stack:
            # On a file system without locks, or without space for one, the two are still safe, see above.
            with suppress(OSError):
                path.parent.mkdir(exist_ok=True)
                fcntl.flock(stack.enter_context(path.open("ab")), fcntl.LOCK_EX)
            yield


def sync_folder(folder: Path) -> None:
    """Writes a folder to disk: without it, a rename in the folder may not survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
