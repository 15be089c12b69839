"""The form that submits a job: preview and errors are rendered here, so it works without a script."""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.auth.caller import AsAdmin, AsWriter
from app.errors import Forbidden, ModelError, PermafrostError
from app.files.intake import take
from app.files.quota import visible as visible_files
from app.files.tables import File
from app.freeze.fitted_presets import PRESETS
from app.freeze.policy import Policy
from app.freeze.preview import Preview
from app.freeze.preview import preview as preview_of
from app.http.dependencies import Blobs, Config, Db, NotifierDep
from app.jobs.queue.idempotency import KeysInFlight
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.dry_run import READ_BYTES
from app.jobs.requests.outlook import Outlook, outlook
from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.submission import examine
from app.jobs.requests.submit import JobServices, submit
from app.jsontypes import JsonDict
from app.models.adapted import with_adapter
from app.models.aliases import aliased
from app.models.catalog import folders
from app.models.listing import page as list_models
from app.models.manifest import Manifest
from app.models.registration import register
from app.pages import freeze_map
from app.pages.job_form import OWN_POLICY, JobForm, manifest_of
from app.pages.own_pages import FROM_OWN_PAGE
from app.pages.render import render_page
from app.settings import Settings
from app.specs.adapters import AdapterSpec
from app.specs.models import Task

router = APIRouter(include_in_schema=False)

#: Offered in the form's lists; an id that is not among them can be typed.
OFFERED_MODELS: Final = 500
OFFERED_FILES: Final = 100
SHOWN_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class Previewed:
    """What the preview shows: with a training file all of a dry run, without one the plan alone."""

    policy: JsonDict
    request: JobCreate | None
    outlook: Outlook | None
    plan: Preview | None


@router.get("/new")
def new_job_page(
    request: Request,
    caller: AsWriter,
    db: Db,
    settings: Config,
    model: Annotated[str, Query(max_length=1024)] = "",
    training_file: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The empty form, or one for a model or an uploaded file."""
    form = JobForm(model=model, training_file=training_file)
    with db.read() as session:
        offers = _offers(session, settings, caller.project, form)
    return _form_page(request, form, offers)


@router.post("/new", dependencies=[FROM_OWN_PAGE], operation_id="createJobByForm")
def submit_form(
    form: Annotated[JobForm, Form()],
    *,
    request: Request,
    caller: AsWriter,
    db: Db,
    storage: Blobs,
    settings: Config,
    notifier: NotifierDep,
) -> Response:
    """Previews or submits. What is wrong is said on the form, which keeps what was filled in."""
    services = JobServices(db, storage, settings, notifier)
    previewed, problem = None, None
    with db.read() as session:
        offers = _offers(session, settings, caller.project, form)
        try:
            previewed = _preview(SubmissionContext(session, storage, settings, caller.project), form)
        except Forbidden:
            raise
        except PermafrostError as error:
            problem = error
    if previewed is not None and form.do == "submit":
        try:
            spec = previewed.request or form.request(previewed.policy)
            return RedirectResponse(f"/jobs/{_submitted(request, services, caller.project, form, spec)}", 303)
        except PermafrostError as error:
            problem = error
    return _form_page(request, form, offers, previewed=previewed, problem=problem)


@router.post("/new/file", dependencies=[FROM_OWN_PAGE], operation_id="createFileByForm")
async def upload_form(request: Request, caller: AsWriter, db: Db, storage: Blobs, settings: Config) -> Response:
    """Takes a training file, and comes back to the form with it; a script sends it to /v1/files and shows progress."""
    file = await take(request, db, storage, settings, project=caller.project)
    return RedirectResponse(f"/new?training_file={file.id}", 303)


@router.post("/new/model", dependencies=[FROM_OWN_PAGE], operation_id="registerModelByForm")
def register_form(
    model: Annotated[str, Form(max_length=256)], caller: AsAdmin, db: Db, settings: Config, notifier: NotifierDep
) -> Response:
    """Has a worker read a model folder, so that presets and previews know its tensors."""
    row = register(db, settings, notifier, folder=model, model_id=None, task=None)
    return RedirectResponse(f"/new?model={row.id}", 303)


def _submitted(request: Request, services: JobServices, project: str, form: JobForm, spec: JobCreate) -> str:
    """The id of the job; a form that is sent twice makes one."""
    keys: KeysInFlight = request.app.state.keys_in_flight
    key = f"form-{form.once}" if form.once else None
    with keys.reserve(project, key):
        job, _ = submit(services, project, spec, key=key)
    return job.id


def _preview(context: SubmissionContext, form: JobForm) -> Previewed:
    """Raises what a submission raises, with lines and fields of the file."""
    if form.names_file():
        request = _request(context, form)
        seen = outlook(context, request)
        return Previewed(seen.dry_run.freeze_policy, request, seen, seen.plan)

    manifest = manifest_of(context.session, context.settings, context.project, form)
    policy = form.freeze_policy(manifest)
    plan = _plan(policy, manifest, form.adapter_spec()) if manifest else None
    return Previewed(plan.plan.policy.to_json() if plan else policy, None, None, plan)


def _plan(policy: JsonDict, manifest: Manifest, adapter: AdapterSpec | None) -> Preview | None:
    """What becomes of each tensor; None where only the loaded model shows where the adapter goes."""
    if adapter is None:
        return preview_of(policy, manifest.tensors, initialised=manifest.initialised)
    try:
        implied, adapted = with_adapter(Policy.from_json(policy), manifest, adapter)
    except ModelError as error:
        if error.code != "model_not_described":
            raise
        return None
    return preview_of(implied, adapted.tensors, initialised=adapted.initialised)


def _request(context: SubmissionContext, form: JobForm) -> JobCreate:
    """The request; a preset is made for the tensors that the model has for the task of the file."""
    if form.preset in (OWN_POLICY, "everything"):
        return form.request(form.freeze_policy(None))
    found = form if form.task else form.model_copy(update={"task": _task_of_file(context, form)})
    manifest = manifest_of(context.session, context.settings, context.project, found)
    return form.request(form.freeze_policy(manifest))


def _task_of_file(context: SubmissionContext, form: JobForm) -> str:
    return examine(context, form.request({}), read_bytes=READ_BYTES).task


def _offers(session: Session, settings: Settings, project: str, form: JobForm) -> JsonDict:
    """Models and files to choose from, bases first; also whether the chosen model is a folder that nobody has read."""
    kinds = ("base", "fine_tuned", "checkpoint")
    rows, _ = list_models(session, settings, project, kinds=kinds, after=None, limit=OFFERED_MODELS, order="desc")
    models = sorted((row.id for row in rows), key=lambda name: (name.startswith("ft:"), name))
    usable = visible_files(session, project).where(File.purpose == "fine-tune")
    files = list(session.scalars(usable.order_by(File.created_at.desc(), File.id.desc()).limit(OFFERED_FILES)))
    name = aliased(settings, form.model.strip()) or form.model.strip()
    unread = name in {folder.name for folder in folders(settings)} and not any(
        row.id == name and hasattr(row, "status") for row in rows
    )
    known = {file.id for file in files}
    chosen = [each for each in (form.training_file, form.validation_file) if each and each not in known]
    return {"models": models, "files": files, "other_files": chosen, "unread": name if unread else None}


def _form_page(
    request: Request,
    form: JobForm,
    offers: JsonDict,
    *,
    previewed: Previewed | None = None,
    problem: PermafrostError | None = None,
) -> Response:
    context: dict[str, Any] = {"tasks": get_args(Task), "presets": PRESETS, "shown_problems": SHOWN_PROBLEMS}
    context |= {"previewed": previewed, "problem": problem, "form": form, "once": form.once or secrets.token_hex(16)}
    if previewed and previewed.plan:
        context["map"] = freeze_map.draw([freeze_map.planned(each) for each in previewed.plan.plan.decisions])
    # A preview that names problems has done its work.
    refused = problem.status if problem and form.do == "submit" else 200
    return render_page(request, "new_job.html", refused, **offers, **context)
