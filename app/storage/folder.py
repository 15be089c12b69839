"""Blobs as files of a folder, local or shared. A file appears whole under its name, or not at all."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from app.storage.stored_file import StoredFile


class FolderStore:
    """Files below `root`; what is being written lies in `incoming`, on the same file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)

    def publish(self, temporary: Path, key: str) -> None:
        """Moves a flushed file of `incoming` to its name; where the bytes are there already, they count as new."""
        target = self.root / key
        # Whoever is about to remove the blob sees from its time that somebody wants it again.
        with suppress(FileNotFoundError, PermissionError):
            if target.stat().st_size == temporary.stat().st_size:
                os.utime(target)
                return
        made = [folder for folder in (target.parent, target.parent.parent) if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o444)
        temporary.replace(target)
        for folder in (target.parent, *(each.parent for each in made)):
            sync_folder(folder)

    def open(self, key: str) -> BinaryIO:
        return (self.root / key).open("rb")

    def fetch(self, key: str, to: Path) -> None:
        """A link: the file is here already."""
        if not (self.root / key).is_file():
            raise FileNotFoundError(key)
        to.symlink_to(self.root / key)

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def remove_untouched(self, key: str, since: float) -> bool:
        """Removes a blob unless `publish` has touched it after `since`; publishers meanwhile make it anew."""
        target, aside = self.root / key, self.root / "quarantine" / key
        aside.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            target.rename(aside)  # a process that dies here leaves it where the doctor finds it
            wanted = aside.stat().st_mtime > since
            if wanted:
                # A link, since another publisher may have put the same bytes there by now.
                with suppress(FileExistsError):
                    os.link(aside, target)
            aside.unlink()
            return not wanted
        return True

    def move(self, key: str, to: str) -> None:
        """Under another name, and dated now."""
        target = self.root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).rename(target)
        os.utime(target)
        for folder in (target.parent, (self.root / key).parent):
            sync_folder(folder)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """Every file below a folder of the store; what vanishes meanwhile is passed over."""
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder) / name
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    yield StoredFile(str(path.relative_to(self.root)), status.st_size, status.st_mtime)


def sync_folder(folder: Path) -> None:
    """A rename lasts through a power cut only once its folder has been written too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
