"""`permafrost backup DIR` and `permafrost restore DIR`: copy the whole service into a folder, and restore it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.errors import PermafrostError
from app.settings import Settings

Target = Annotated[Path, typer.Argument(help="Folder for the backup; an earlier backup in it is updated.")]
Source = Annotated[Path, typer.Argument(help="Folder that `permafrost backup` has written.")]
Keys = Annotated[bool, typer.Option(help="Also copy the keys that sign evidence and encrypt webhook secrets.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def backup(folder: Target, keys: Keys = True, as_json: AsJson = False) -> None:
    """Copy database, blobs and keys as of one moment, while the service runs.

    The database is copied first, then the blobs that its rows refer to; none of them is deleted before its copy.
    Exit code 1: no backup was made, or a blob was missing already.
    """
    from app.ops.backup.copies import write  # here, so that commands which need no database do not wait for its import

    settings = Settings()
    try:
        manifest = write(settings, folder, keys=keys)
    except (PermafrostError, OSError) as error:
        raise SystemExit(f"no backup was made: {error}") from None
    counts = f"{len(manifest.blobs)} blobs and {len(manifest.keys)} key files"
    if as_json:
        print(json.dumps({"folder": str(folder), **asdict(manifest)}, indent=2))
    else:
        print(f"{folder}: {manifest.database} at revision {manifest.revision}, {counts}")
    if manifest.missing:
        lost = "\n".join(f"  {blob}" for blob in manifest.missing)
        raise SystemExit(f"the backup lacks blobs that the service had already lost; see `permafrost doctor`:\n{lost}")


def restore(folder: Source, as_json: AsJson = False) -> None:
    """Restore a backup into an empty database, and check every digest."""
    from app.ops.backup.copies import read_back

    try:
        manifest = read_back(Settings(), folder)
    except (PermafrostError, OSError) as error:
        raise SystemExit(f"the database was not restored: {error}") from None
    if as_json:
        print(json.dumps({"folder": str(folder), **asdict(manifest)}, indent=2))
        return
    print(
        f"restored the backup of {manifest.made_at}; check it with `permafrost doctor`, then start `permafrost serve`"
    )
