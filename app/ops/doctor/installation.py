"""What an installation needs to run: settings, database, broker, storage, models folder, signing key."""

import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from app.settings import Settings


def checks(settings: Settings) -> Iterator[tuple[str, str | None, str]]:
    """Name, problem or None, and what is fine."""
    looks: dict[str, Callable[[Settings], str]] = {
        "settings": _settings,
        "database": _database,
        "broker": _broker,
        "storage": _storage,
        "models": _models,
        "signing key": _key,
    }
    for name, look in looks.items():
        try:
            yield name, None, look(settings)
        except Exception as error:  # a doctor reports whatever is wrong, and goes on
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
    where = urlsplit(settings.broker)
    shown = f"{where.scheme}://{where.hostname}:{where.port or 6379}"
    try:
        with socket.create_connection((where.hostname or "localhost", where.port or 6379), timeout=2):
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
            raise ValueError("what was written is not what is read")
    storage.delete(writer.blob.key)
    return f"{settings.storage} takes and gives back bytes"


def _models(settings: Settings) -> str:
    from app.models.catalog import folders

    if settings.models_dir is not None and not settings.models.is_dir():
        raise ValueError(
            f"PERMAFROST_MODELS_DIR={settings.models} is no folder: make it, or name the one with your models"
        )
    names = [folder.name for folder in folders(settings)]
    return f"{settings.models} holds {', '.join(names) or 'no model yet'}"


def _key(settings: Settings) -> str:
    from app.evidence.format.keys import load

    path = settings.signing_key_path
    if not path.exists():
        return f"{path} will be made by the first worker"
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others: chmod 600 {path}")
    return f"{path}, id {load(path).keyid[:16]}…"
