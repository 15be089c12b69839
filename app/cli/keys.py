"""`permafrost keys`: works on the database, since the API needs a key before it could create the first one."""

import getpass
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.output import AsJson, print_json
from app.cli.signing_keys import app as signing
from app.jsontypes import JsonDict

if TYPE_CHECKING:
    from app.auth.audited_action import AuditedAction
    from app.auth.tables import ApiKey
    from app.db import Database

app = typer.Typer(
    help="Create, list and revoke API keys; `signing` manages signing keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(signing, name="signing")

_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Role(StrEnum):
    admin = "admin"
    writer = "writer"
    reader = "reader"


Project = Annotated[str, typer.Option(help="Keys see only the objects of their own project.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Owner or purpose; shown in lists and in the audit log.")],
    project: Project = "default",
    role: Annotated[
        Role, typer.Option(help="reader: read only; writer: also run jobs; admin: everything.")
    ] = Role.writer,
    expires: Annotated[str | None, typer.Option(help="In 12h, 90d or 8w, or on 2027-01-31; default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, once."""
    from app.settings import PROJECT_NAME

    if not re.fullmatch(PROJECT_NAME, project):
        raise typer.BadParameter(
            "must be at most 64 letters, digits, dots, dashes and underscores", param_hint="--project"
        )
    if not 1 <= len(name) <= 128:
        raise typer.BadParameter("must have 1 to 128 characters", param_hint="--name")
    from app.audit.record import record
    from app.auth import api_keys

    expires_at = _moment(expires) if expires else None
    with _database() as db, db.write() as session:
        row, key = api_keys.make(session, project=project, role=role.value, name=name, expires_at=expires_at)
        record(session, _audited("keys.create", row))
    if as_json:
        print_json({**_described(row), "key": key})
    else:
        print(key)
    expiry = f"expires {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else "does not expire"
    typer.echo(f"The key is shown once. {row.id}: role {role.value}, project {project}, {expiry}.", err=True)


@app.command(name="list")
def list_keys(
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None, as_json: AsJson = False
) -> None:
    """List keys, newest first. The keys themselves are not stored, only their ids."""
    from rich.console import Console
    from rich.table import Table

    from app.auth import api_keys

    with _database() as db, db.read() as session:
        rows = api_keys.listed(session, project=project)
    if as_json:
        print_json([_described(row) for row in rows])
        return
    if not rows:
        typer.echo("No keys yet. Create one with: permafrost keys create --role admin --name first", err=True)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("KEY", "PROJECT", "ROLE", "NAME", "STATUS", "CREATED (UTC)", "LAST USED (UTC)"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        used = _format_time(row.last_used_at) if row.last_used_at else "never"
        table.add_row(row.id, row.project, row.role, row.name, _status(row), _format_time(row.created_at), used)
    Console(width=200, highlight=False, markup=False, emoji=False).print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key (its beginning), as `list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key for good. Running services stop accepting it within five seconds."""
    from app.audit.record import record
    from app.auth import api_keys
    from app.errors import PermafrostError

    with _database() as db, db.write() as session:
        try:
            row = api_keys.revoke(session, "_".join(key.split("_")[:2]))
        except PermafrostError as error:
            raise typer.BadParameter(error.message, param_hint="KEY") from None
        record(session, _audited("keys.revoke", row))
    if as_json:
        print_json(_described(row))
    typer.echo(f"{row.id} ({row.name}) is revoked.", err=True)


def _described(row: "ApiKey") -> JsonDict:
    used = row.last_used_at.isoformat() if row.last_used_at else None
    fields = {"id": row.id, "project": row.project, "role": row.role, "name": row.name, "status": _status(row)}
    return {**fields, "created_at": row.created_at.isoformat(), "last_used_at": used}


@contextmanager
def _database() -> Iterator["Database"]:
    """The database, with missing tables created as `permafrost serve` does."""
    from app.db import Database
    from app.settings import Settings
    from migrations.upgrade import upgrade

    settings = Settings()
    db = Database(settings.database)
    upgrade(settings.database)
    try:
        yield db
    finally:
        db.close()


def _audited(action: str, row: "ApiKey") -> "AuditedAction":
    """The audit log's entry. Anyone who can open the database counts as an admin."""
    from app.auth.audited_action import AuditedAction

    return AuditedAction(
        action=action, project=row.project, role="admin", object_id=row.id, key_name=f"{_user()} at the command line"
    )


def _user() -> str:
    try:
        return getpass.getuser()[:64]
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown user"


def _moment(text: str) -> datetime:
    """The time that --expires names: a duration from now, or a date. Raises BadParameter."""
    current = datetime.now(UTC)
    try:
        if match := re.fullmatch(r"([1-9]\d{0,4})([hdw])", text):
            return current + int(match[1]) * _UNITS[match[2]]
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        moment = current
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= current:
        raise typer.BadParameter(
            f"{text!r} is neither a duration such as 90d nor a future date", param_hint="--expires"
        )
    return moment


def _status(row: "ApiKey") -> str:
    if row.revoked_at is not None:
        return "revoked"
    if not row.valid(datetime.now(UTC)):
        return "expired"
    return f"until {_format_time(row.expires_at)}" if row.expires_at else "valid"


def _format_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
