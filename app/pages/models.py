"""Pages of models: the list, one model with its lineage, files and use, and what changed between two."""

from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from app.auth.caller import AsReader, AsWriter
from app.errors import NotFound
from app.http.dependencies import Blobs, Config, Db
from app.jobs.queue.model_removal import remove_model
from app.models.aliases import aliased
from app.models.catalog import find_model
from app.models.listing import page as list_models
from app.models.listing import unused_folders
from app.models.schemas import ModelKind
from app.models.tables import Model
from app.pages import change_map, comparison, freeze_map
from app.pages.lineage import ancestors, descendants
from app.pages.loading import task_of, use_of
from app.pages.own_pages import FROM_OWN_PAGE
from app.pages.render import render_page

router = APIRouter(include_in_schema=False)

PAGE: Final = 50
#: Models offered in the lists of the comparison's form; an id that is not among them can be typed.
OFFERED: Final = 500


@router.get("/models")
def models_page(
    request: Request,
    caller: AsReader,
    db: Db,
    settings: Config,
    *,
    kind: Annotated[str, Query(max_length=20)] = "",
    after: Annotated[str | None, Query(max_length=1024)] = None,
) -> Response:
    """The project's models and the bases, newest first."""
    kinds = [kind] if kind in get_args(ModelKind) else []
    with db.read() as session:
        rows, more = list_models(
            session, settings, caller.project, kinds=kinds, after=after or None, limit=PAGE, order="desc"
        )
    context: dict[str, Any] = {"models": rows, "more": more, "kind": kind, "kinds": get_args(ModelKind)}
    return render_page(request, "models.html", after=after, **context)


@router.post("/models/delete", dependencies=[FROM_OWN_PAGE], operation_id="deleteModelByForm")
def delete_model(model: Annotated[str, Form(max_length=1024)], caller: AsWriter, db: Db, storage: Blobs) -> Response:
    """Refused while other models or jobs use it."""
    remove_model(db, storage, caller.project, model, may_remove_bases=caller.may("admin"))
    return RedirectResponse("/models", 303)


@router.get("/compare")
def compare_page(
    request: Request,
    caller: AsReader,
    db: Db,
    storage: Blobs,
    settings: Config,
    *,
    base: Annotated[str, Query(max_length=1024)] = "",
    result: Annotated[str, Query(max_length=1024)] = "",
) -> Response:
    """Which tensors differ between two models, and by how much where that is soon read."""
    context: dict[str, Any] = {"base": base, "result": result, "compared": None}
    with db.read() as session:
        rows, _ = list_models(session, settings, caller.project, after=None, limit=OFFERED, order="desc")
        context["models"] = [row.id for row in rows if isinstance(row, Model)]
        if base and result:
            both = [find_model(session, caller.project, name, param="model") for name in (base.strip(), result.strip())]
            compared = comparison.compare(storage, *both)
            context |= {"compared": compared, "map": freeze_map.draw(compared.drawn())}
    return render_page(request, "compare.html", shown=comparison.SHOWN, **context)


@router.get("/models/{model:path}")
def model_page(model: str, request: Request, caller: AsReader, db: Db, settings: Config) -> Response:
    """One model: lineage, files, how to load and to serve it."""
    with db.read() as session:
        try:
            row = find_model(session, caller.project, model)
        except NotFound as error:
            target = aliased(settings, model)
            if any(folder.id == model for folder in unused_folders(session, settings, caller.project)):
                return render_page(request, "folder.html", model=model)
            if target is not None and target != model:
                return RedirectResponse(f"/models/{target}", 303)
            return render_page(
                request, "error.html", 404, title="No such model", message=error.message, error_code=error.code
            )
        task = task_of(session, row)
        job = row.job_id if row.kind == "fine_tuned" else None  # its rows describe what it ended with alone
        context: dict[str, Any] = {
            "model": row,
            "steps": ancestors(session, caller.project, row),
            "made": descendants(session, caller.project, row),
            "use": use_of(row, task=task) if row.files else None,
            "task": task,
            "tensors": len(row.tensors),
        }
        context |= change_map.of_job(session, job) if job else change_map.NONE
    return render_page(request, "model.html", **context)
