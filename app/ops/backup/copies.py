"""Writes a backup of the whole service into a folder, and puts one back into an empty service."""

from contextlib import suppress
from pathlib import Path

from app.db import Database
from app.ops.backup.dump import BackupError, dump, is_empty, put_back
from app.ops.backup.folder import BackupManifest, copy_blob, copy_key, key_files, refuse_other, sha256_of, stamp, tidy
from app.settings import Settings
from app.storage.blobs import CHUNK, Storage, sync_folder


def write(settings: Settings, folder: Path, *, keys: bool = True) -> BackupManifest:
    """Back up into `folder`. An earlier backup in it stays complete until the new one is."""
    from app.ops.health import database_problem
    from migrations.upgrade import head

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_other(folder)
    db, storage = Database(settings.database), Storage(settings.storage)
    try:
        if problem := database_problem(db):
            raise BackupError(problem)
        made_at, kind = stamp(), "sqlite" if db.sqlite else "postgresql"
        path = folder / f"database-{made_at}.{'db' if db.sqlite else 'dump'}"
        with suppress(FileNotFoundError):
            path.unlink()
        with storage.protect() as renew:
            needed = dump(db, path)
            problems = {}
            for key in sorted(needed):
                renew()
                if problem := copy_blob(storage, key, folder):
                    problems[key] = f"{key}: {problem}; needed by {', '.join(sorted(needed[key])[:5])}"
    finally:
        db.close()
    copied = list(key_files(settings)) if keys else []
    for name, source in copied:
        copy_key(source, folder / name)
    manifest = BackupManifest(
        made_at=made_at,
        database=kind,
        revision=head(),
        dump=path.name,
        dump_sha256=sha256_of(path),
        blobs=sorted(needed.keys() - problems.keys()),
        missing=list(problems.values()),
        keys=[name for name, _ in copied],
    )
    manifest.save(folder)
    tidy(folder, manifest)
    return manifest


def read_back(settings: Settings, folder: Path) -> BackupManifest:
    """Restore from `folder`: keys and blobs first, the database last, so that no row refers to missing bytes."""
    manifest = BackupManifest.load(folder)
    db = Database(settings.database)
    try:
        _check(settings, db, folder, manifest)
        for name, target in _key_targets(settings, manifest):
            if not target.exists():
                copy_key(folder / name, target)
                sync_folder(target.parent)
        storage = Storage(settings.storage)
        for key in manifest.blobs:
            _put_blob(storage, key, folder / "blobs" / key)
        put_back(db, folder / manifest.dump)
    finally:
        db.close()
    return manifest


def _check(settings: Settings, db: Database, folder: Path, manifest: BackupManifest) -> None:
    """Raise BackupError for anything that would make a restore fail halfway."""
    kind = "sqlite" if db.sqlite else "postgresql"
    if manifest.database != kind:
        raise BackupError(
            f"the backup is of a {manifest.database} database, but PERMAFROST_DATABASE_URL names a {kind} one"
        )
    if not is_empty(db):
        raise BackupError(
            "the database is not empty; set PERMAFROST_DATABASE_URL to a new one, or move the old one away"
        )
    dump_path = folder / manifest.dump
    if not dump_path.is_file() or sha256_of(dump_path) != manifest.dump_sha256:
        raise BackupError(f"{dump_path} is missing or damaged")
    for name, target in _key_targets(settings, manifest):
        if target.exists() and target.read_bytes() != (folder / name).read_bytes():
            raise BackupError(f"{target} exists and differs from the backup's key; move it away")
    missing = [key for key in manifest.blobs if not (folder / "blobs" / key).is_file()]
    if missing:
        raise BackupError(f"the backup lacks {len(missing)} of its blobs, the first {missing[0]}")


def _key_targets(settings: Settings, manifest: BackupManifest) -> list[tuple[str, Path]]:
    paths = {"signing": settings.signing_key_path, "webhooks": settings.webhook_key_path, "log": settings.log_key_path}
    folders = {kind: path.parent for kind, path in paths.items()}
    return [(name, folders[name.split("/")[1]] / Path(name).name) for name in manifest.keys]


def _put_blob(storage: Storage, key: str, path: Path) -> None:
    with path.open("rb") as source, storage.writer() as writer:
        while chunk := source.read(CHUNK):
            writer.write(chunk)
        if writer.sha256() != key.rpartition("/")[2]:
            raise BackupError(f"{path} is damaged: its SHA-256 is {writer.sha256()}")
