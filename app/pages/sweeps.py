"""Pages of sweeps: the list, and one sweep with its jobs ranked."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from app.auth.caller import AsReader
from app.errors import NotFound
from app.http.dependencies import Db
from app.jsontypes import JsonDict
from app.pages.format import number
from app.pages.render import render_page
from app.sweeps import views
from app.sweeps.schemas import RankedJob
from app.sweeps.tables import Sweep

router = APIRouter(include_in_schema=False)

SHOWN: Final = 50
#: Longer values are cut in the table; the whole ones are a hover and a click away.
_CHARACTERS: Final = 60


@router.get("/sweeps")
def sweeps_page(
    request: Request, caller: AsReader, db: Db, page: Annotated[int, Query(ge=1, le=10_000)] = 1
) -> Response:
    """The project's sweeps, newest first."""
    newest = select(Sweep).where(Sweep.project == caller.project).order_by(Sweep.created_at.desc(), Sweep.id.desc())
    with db.read() as session:
        rows = list(session.scalars(newest.offset((page - 1) * SHOWN).limit(SHOWN + 1)))
        sweeps = views.summaries(session, rows[:SHOWN])
    return render_page(request, "sweeps.html", sweeps=sweeps, page=page, more=len(rows) > SHOWN)


@router.get("/sweeps/{sweep_id}")
def sweep_page(sweep_id: str, request: Request, caller: AsReader, db: Db) -> Response:
    """One sweep: its state, the best job, and the table of ranks."""
    with db.snapshot() as session:
        try:
            sweep = views.read(session, caller.project, sweep_id)
        except NotFound as error:
            return render_page(
                request, "error.html", 404, title="No such sweep", message=error.message, error_code=error.code
            )
    names = columns(sweep.ranking)
    table = [(row, [cell(row.values, name) for name in names]) for row in sweep.ranking]
    return render_page(request, "sweep.html", sweep=sweep, names=names, table=table)


def columns(ranking: Sequence[RankedJob]) -> list[str]:
    """Names of what the jobs differ in, each once: `seed`, `freeze_policy`, and the hyperparameters by their names."""
    names: dict[str, None] = {}
    for row in sorted(ranking, key=lambda row: row.job_id):
        names |= dict.fromkeys(flat(row.values))
    return list(names)


def flat(values: JsonDict) -> JsonDict:
    """The values with the hyperparameters beside policy and seed."""
    rest = {name: value for name, value in values.items() if name != "hyperparameters"}
    return {**values.get("hyperparameters", {}), **rest}


def cell(values: JsonDict, name: str) -> tuple[str, str]:
    """A value as it is shown, and as a whole."""
    value: Any = flat(values).get(name)
    if value is None:
        return "–", ""
    whole = json.dumps(value) if isinstance(value, dict | list) else number(value)
    return (whole if len(whole) <= _CHARACTERS else f"{whole[: _CHARACTERS - 1]}…"), whole
