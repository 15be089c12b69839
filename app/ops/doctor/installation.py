"""Checks of the parts that an installation needs: settings, database, broker, storage, models, signing key."""

import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from app.settings import Settings


def checks(settings: Settings) -> Iterator[tuple[str, str | None, str]]:
    """(name, problem or None, description when there is no problem) of each part."""
    parts: dict[str, Callable[[Settings], str]] = {
        "settings": _settings,
        "database": _database,
        "broker": _broker,
        "storage": _storage,
        "models": _models,
        "signing key": _key,
    }
    for name, check in parts.items():
        try:
            yield name, None, check(settings)
        except Exception as error:  # any failure is a result of the check, and the next check runs
            yield name, f"{error}", ""


def _settings(settings: Settings) -> str:
    if settings.auth == "off" and not settings.on_loopback:
        raise ValueError(f"PERMAFROST_AUTH=off is for loopback only, and PERMAFROST_HOST is {settings.host}")
    return f"{'embedded' if settings.embedded else 'deployed'}, data in {settings.home}"


def _database(settings: Settings) -> str:
    from app.db import Database
    from app.ops.health import database_problem

    database = Database(settings.database)
    try:
        if problem := database_problem(database):
            raise ValueError(problem)
    finally:
        database.close()
    return str(database.url.render_as_string(hide_password=True))


def _broker(settings: Settings) -> str:
    if settings.embedded:
        return f"files in {settings.broker.removeprefix('filesystem://')}"
    url = urlsplit(settings.broker)
    shown = f"{url.scheme}://{url.hostname}:{url.port or 6379}"
    try:
        with socket.create_connection((url.hostname or "localhost", url.port or 6379), timeout=2):
            return f"{shown} answers"
    except OSError as error:
        raise ValueError(f"{shown}: {error.strerror or error}; see PERMAFROST_BROKER_URL") from None


def _storage(settings: Settings) -> str:
    from app.storage.blobs import Storage

    storage = Storage(settings.storage)
    with storage.writer() as writer:
        writer.write(b"permafrost doctor")
    with storage.open(writer.blob.key) as blob:
        if blob.read() != b"permafrost doctor":
            raise ValueError("the storage returned other bytes than were written")
    storage.delete(writer.blob.key)
    return f"{settings.storage} can be written and read"


def _models(settings: Settings) -> str:
    from app.models.catalog import folders

    if settings.models_dir is not None and not settings.models.is_dir():
        raise ValueError(
            f"PERMAFROST_MODELS_DIR={settings.models} is not a folder: create it, or name the folder with your models"
        )
    names = [folder.name for folder in folders(settings)]
    return f"{settings.models} has {', '.join(names) or 'no model yet'}"


def _key(settings: Settings) -> str:
    from app.evidence.format.keys import load

    path = settings.signing_key_path
    if not path.exists():
        return f"{path} will be created by the first worker"
    if path.stat().st_mode & 0o077:
        raise ValueError(f"other users can read {path}: chmod 600 {path}")
    return f"{path}, id {load(path).keyid[:16]}…"
