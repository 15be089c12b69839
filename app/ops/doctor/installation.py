"""Checks of the parts that an installation needs, from settings to signing key, and of what confines its trainers."""

import ctypes
import platform
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from app.settings import Settings

_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_VERSION: Final = 1
_PR_GET_SECCOMP: Final = 21
#: Machines whose system calls the trainers' filter knows.
_FILTERED: Final = {"x86_64", "aarch64"}


@dataclass(frozen=True, slots=True)
class PartCheck:
    """The result of checking one part of an installation. A note is information and does not make the doctor fail."""

    name: str
    level: Literal["ok", "note", "problem"]
    detail: str

    def to_text(self) -> str:
        return f"{'FAIL' if self.level == 'problem' else self.level:4}  {self.name}: {self.detail}"


class _Note(Exception):
    """A part that works, with something that an operator should know."""


def checks(settings: Settings) -> Iterator[PartCheck]:
    """Check each part, whatever the checks before it found."""
    parts: dict[str, Callable[[Settings], str]] = {
        "settings": _settings,
        "database": _database,
        "broker": _broker,
        "storage": _storage,
        "models": _models,
        "model aliases": _aliases,
        "signing key": _key,
        "secrets": _secrets,
        "sandbox": _sandbox,
    }
    for name, check in parts.items():
        try:
            yield PartCheck(name, "ok", check(settings))
        except _Note as note:
            yield PartCheck(name, "note", str(note))
        except Exception as error:  # noqa: BLE001 - any failure is a result of the check, and the next check runs
            yield PartCheck(name, "problem", str(error))


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


def _aliases(settings: Settings) -> str:
    from sqlalchemy import select

    from app.db import Database
    from app.models.aliases import choice
    from app.models.catalog import folders
    from app.models.tables import Model
    from app.specs.models import RegisteredSpec

    if not settings.aliases:
        return "none"
    database = Database(settings.database)
    try:
        with database.read() as session:
            known = {*session.scalars(select(Model.id)), *(folder.name for folder in folders(settings))}
    finally:
        database.close()
    for pattern, model in settings.aliases.items():
        if isinstance(choice(model), RegisteredSpec) and model not in known:
            raise ValueError(
                f"PERMAFROST_MODEL_ALIASES has {pattern}={model}, and no model is named {model!r}: put its folder into "
                f"{settings.models}, or name another"
            )
    return ", ".join(f"{pattern} is {model}" for pattern, model in settings.aliases.items())


def _key(settings: Settings) -> str:
    from app.evidence.format.keys import load

    path = settings.signing_key_path
    if settings.signer:
        key = load(path, command=settings.signer)
        key.sign(b"permafrost: does this command sign?")
        return f"PERMAFROST_SIGNER signs with the key {key.keyid[:16]}…"
    if not path.exists():
        return f"{path} will be created by the first worker"
    if path.stat().st_mode & 0o077:
        raise ValueError(f"other users can read {path}: chmod 600 {path}")
    return f"{path}, id {load(path).keyid[:16]}…"


def _secrets(settings: Settings) -> str:
    """Whether the key file opens every sealed secret: after a restore without keys it is another one, or none."""
    from sqlalchemy import inspect, select

    from app.db import Database
    from app.secrets.tables import Secret
    from app.vault import Vault
    from app.webhooks.tables import Endpoint

    vault, path = Vault(settings.webhook_key_path), settings.webhook_key_path
    database = Database(settings.database)
    try:
        with database.read() as session:
            if not inspect(session.connection()).has_table(Secret.__tablename__):
                return "none yet"
            sealed = [(row.id, row.sealed) for row in session.scalars(select(Secret))]
            sealed += [(row.id, row.secret) for row in session.scalars(select(Endpoint))]
    finally:
        database.close()
    for row_id, secret in sealed:
        vault.open(secret, row_id=row_id)  # VaultClosed says which file, and why
    if path.exists() and path.stat().st_mode & 0o077:
        raise ValueError(f"other users can read {path}: chmod 600 {path}")
    return f"{len(sealed)}, all of which {path} opens" if sealed else "none yet"


def _sandbox(_: Settings) -> str:
    """What confines the trainers of a worker on this machine, under this kernel."""
    landlock, seccomp = landlock_version(), has_seccomp()
    files = f"Landlock (ABI {landlock}) confines the files of trainers"
    network = "seccomp keeps them from the network"
    if landlock and seccomp:
        return f"{files}, {network}"

    if not landlock:
        files = "Landlock is not available, so trainers can read and write what this user can"
    if not seccomp:
        network = "seccomp is not available, so trainers can use the network"
    raise _Note(f"{files}; {network}; run workers in containers or under a user of their own")


def landlock_version() -> int:
    """The ABI version of this kernel's Landlock; 0 without it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)))


def has_seccomp() -> bool:
    """Whether this kernel filters system calls, on a machine whose calls the trainers' filter knows."""
    libc = ctypes.CDLL(None, use_errno=True)
    return platform.machine() in _FILTERED and int(libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0
