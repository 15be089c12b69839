"""Lists models by pages: rows of the database, and among them, by time, the folders that no job has used yet."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models.catalog import folders, visible
from app.models.tables import Model
from app.paging.keyset import Order, keyset
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class UnusedFolder:
    """A folder in PERMAFROST_MODELS_DIR without a row; its place in the list is the time of its config.json."""

    path: Path
    created_at: datetime

    @property
    def id(self) -> str:
        return self.path.name


def page(
    session: Session,
    settings: Settings,
    project: str,
    *,
    kinds: Collection[str] = (),
    after: str | None,
    limit: int,
    order: Order,
) -> tuple[list[Model | UnusedFolder], bool]:
    """One page of the models that a project may use, and whether more follow. No `kinds`: of every kind."""
    within = visible(project)
    listed = within.where(Model.status != "dropped")
    listed = listed.where(Model.kind.in_(kinds)) if kinds else listed
    unused = unused_folders(session, settings, project) if not kinds or "base" in kinds else []

    cursors = {folder.id: folder for folder in unused}
    rows, more = keyset(session, listed, Model, within=within, beside=cursors, after=after, limit=limit, order=order)
    if not unused:
        return list(rows), more
    between = _between(unused, rows, cursor=_cursor(session, cursors, after), more=more, order=order)
    both: list[Model | UnusedFolder] = [*rows, *between]
    merged = sorted(both, key=_sort_key, reverse=order == "desc")
    return merged[:limit], more or len(merged) > limit


def unused_folders(session: Session, settings: Settings, project: str) -> list[UnusedFolder]:
    """The folders whose name no model of the project has."""
    paths = {path.name: path for path in folders(settings)}
    if not paths:
        return []
    of_rows = visible(project).where(Model.status != "dropped", Model.id.in_(paths)).with_only_columns(Model.id)
    for name in session.scalars(of_rows):
        del paths[name]
    return [UnusedFolder(path, time) for path in paths.values() if (time := _time_of(path)) is not None]


def _time_of(folder: Path) -> datetime | None:
    """When its config.json was written; None for a folder that has just been removed."""
    try:
        return datetime.fromtimestamp((folder / "config.json").stat().st_mtime, UTC)
    except OSError:
        return None


def _cursor(session: Session, unused: dict[str, UnusedFolder], after: str | None) -> tuple[datetime, str] | None:
    """The sort key of the last object of the page before, which `keyset` has found to exist."""
    if after is None:
        return None
    if after in unused:
        return _sort_key(unused[after])
    row = session.execute(select(Model.created_at, Model.id).where(Model.id == after)).one()
    return row[0], row[1]


def _between(
    unused: Sequence[UnusedFolder],
    rows: Sequence[Model],
    *,
    cursor: tuple[datetime, str] | None,
    more: bool,
    order: Order,
) -> list[UnusedFolder]:
    """The folders behind the cursor and, where rows follow this page's, before the last of these."""
    end = _sort_key(rows[-1]) if more else None
    ascending = order == "asc"

    def here(folder: UnusedFolder) -> bool:
        key = _sort_key(folder)
        behind = cursor is None or (key > cursor if ascending else key < cursor)
        return behind and (end is None or (key < end if ascending else key > end))

    return [folder for folder in unused if here(folder)]


def _sort_key(model: Model | UnusedFolder) -> tuple[datetime, str]:
    return model.created_at, model.id
