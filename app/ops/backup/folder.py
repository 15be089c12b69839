"""The folder of a backup: a database dump, blobs, keys, and the manifest, which is written last."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from app.errors import NotFound
from app.ops.backup.dump import BackupError
from app.settings import Settings
from app.storage.blobs import CHUNK, Storage, sync_folder

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class BackupManifest:
    made_at: str
    database: str  # "sqlite" | "postgresql"
    revision: str
    dump: str
    dump_sha256: str
    blobs: list[str]
    #: Blobs that were missing or damaged when the backup was made.
    missing: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        temporary = folder / f".{MANIFEST}"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / MANIFEST)
        sync_folder(folder)

    @classmethod
    def load(cls, folder: Path) -> "BackupManifest":
        try:
            content = json.loads((folder / MANIFEST).read_text("utf-8"))
            if content.get("schema") != SCHEMA:
                raise BackupError(f"{folder} has manifest schema {content.get('schema')}; this version reads {SCHEMA}")
            return cls(**content)
        except FileNotFoundError:
            raise BackupError(
                f"{folder} has no {MANIFEST}: it is not a backup, or one that was never finished"
            ) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise BackupError(f"{folder / MANIFEST} cannot be read: {error}") from None


def refuse_other(folder: Path) -> None:
    """Raise BackupError for a folder with other files than a backup's, since `tidy` deletes files."""
    own = {MANIFEST, f".{MANIFEST}", "blobs", "keys"}
    other = [path.name for path in folder.iterdir() if path.name not in own and not path.name.startswith("database-")]
    if other:
        raise BackupError(f"{folder} contains {min(other)!r}, so it is not a backup; use an empty folder")


def copy_blob(storage: Storage, key: str, folder: Path) -> str | None:
    """Copy a blob unless an earlier backup has it. Returns what is wrong with the blob, or None."""
    target = folder / "blobs" / key
    if target.is_file():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()
    try:
        with storage.open(key) as source, partial.open("wb") as copy:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        if digest.hexdigest() != key.rpartition("/")[2]:
            return "its bytes do not match its SHA-256"
        partial.replace(target)
    except NotFound:
        return "missing from the storage"
    finally:
        partial.unlink(missing_ok=True)
    return None


def key_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Every key file of the service: its path in the backup, and its path here."""
    paths = {"signing": settings.signing_key_path, "webhooks": settings.webhook_key_path, "log": settings.log_key_path}
    for kind, path in paths.items():
        if path.parent.is_dir():
            # The key, its public half, its key ring, and previous keys that still sign.
            files = sorted(file for file in path.parent.iterdir() if file.name.startswith(path.stem) and file.is_file())
            yield from ((f"keys/{kind}/{file.name}", file) for file in files)


def copy_key(source: Path, target: Path) -> None:
    """Copy a key file with mode 0600, whatever the original's mode."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(source.read_bytes())
        os.fsync(file.fileno())


def tidy(folder: Path, manifest: BackupManifest) -> None:
    """Delete files of earlier backups in this folder that the manifest does not list."""
    listed = {MANIFEST, manifest.dump, *manifest.keys, *(f"blobs/{key}" for key in manifest.blobs)}
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in listed:
            path.unlink()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
