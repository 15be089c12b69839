"""Endpoints under /v1/freeze_policies: a preview of what a policy freezes, and the JSON schema of policies."""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.auth.caller import AsReader
from app.errors import InvalidRequest, PermafrostError, PolicyError
from app.freeze.parts import matched
from app.freeze.plan import FreezePlan
from app.freeze.policy import Policy
from app.freeze.preview import preview
from app.freeze.schemas import FreezePlanCounts, FreezePolicy, json_schema
from app.http.dependencies import Config, Db
from app.http.json_body import JsonRoute
from app.http.request_body import RequestBody
from app.jobs.requests.model_spec import ModelField, model_choice
from app.models.adapted import with_adapter
from app.models.catalog import ChosenModel, below_adapter, choose, similar_tensors
from app.models.manifest import Manifest
from app.openapi.load import load_examples
from app.openapi.prose import ERRORS, PENDING
from app.paging.keyset import Page
from app.specs.models import Task

router = APIRouter(prefix="/freeze_policies", tags=["Freeze policies"], responses=ERRORS, route_class=JsonRoute)


class PreviewRequest(RequestBody):
    model: ModelField
    freeze_policy: FreezePolicy
    task: Task | None = Field(default=None, description="Beside a model's id, as in a job; absent: the model's own.")
    optimizer: Literal["adamw", "adam", "sgd", "muon", "adafactor", "lbfgs"] = "adamw"
    after: str | None = Field(default=None, max_length=1024, description="Name of the last tensor of the page before.")
    limit: int = Field(default=100, ge=1, le=10_000)


class PartMatched(BaseModel):
    """The tensors that a part of a vision-language model stands for."""

    rule: str
    part: str
    matched: list[str] = Field(description="Globs of the names, which the policy in its normal form has.")
    tensors: int
    elements: int


class PolicyPreview(Page):
    """The plan: counts, memory, warnings, and a page of decisions, one per tensor."""

    model: str
    resolved_model: str = Field(description="What `model` stands for, where it is an alias; else the same.")
    freeze_policy: dict[str, Any] = Field(description="The policy in its normal form.")
    policy_digest: str
    freeze_plan: FreezePlanCounts
    tensors: int
    memory: dict[str, Any]
    parts: list[PartMatched] = Field(
        description="What each `part` in the policy, or in its preset, stands for in this model."
    )
    warnings: list[str]
    data: list[dict[str, Any]]


class SchemaResponse(JSONResponse):
    media_type = "application/schema+json"


@router.get(
    "/schema",
    operation_id="readFreezePolicySchema",
    summary="Read the JSON schema of freeze policies",
    response_class=SchemaResponse,
)
def read_schema(caller: AsReader) -> SchemaResponse:
    """JSON Schema 2020-12, for editors and for checks before a request: keys, types and ranges, with examples.

    What needs a model (names, rows, `expect`) is for the preview.
    """
    return SchemaResponse(json_schema())


class ModelPending(PermafrostError):
    """A worker is reading the model; the SDK repeats the request after `Retry-After`."""

    status = 409
    type = "invalid_request_error"
    code = "model_pending"

    def __init__(self, model: str) -> None:
        message = (
            f"the tensors of {model!r} are not known yet: a worker reads the model's files, which takes some seconds; "
            "then repeat the request"
        )
        super().__init__(message, param="model", headers={"retry-after": "2"})


@router.post("/preview", operation_id="previewFreezePolicy", summary="Preview a freeze policy", responses=PENDING)
def preview_policy(
    body: Annotated[PreviewRequest, Body(openapi_examples=load_examples("preview_requests"))],
    caller: AsReader,
    db: Db,
    settings: Config,
) -> PolicyPreview:
    """Resolves the policy as a job would, against the model's tensors and its adapter's. The model must be known.

    A registered model that no worker has read yet is answered with 409 and `Retry-After`.
    """
    with db.read() as session:
        model = choose(session, settings, caller.project, model_choice(body.model))
        plain = below_adapter(session, settings, caller.project, model)
        manifest = _manifest(session, caller.project, plain, body.task or model.spec.task)
    if manifest is None:
        raise ModelPending(plain.name) if plain.pending else _unknown(plain, body.task)
    policy = body.freeze_policy.normal()
    if model.spec.adapter is not None:
        policy, manifest = with_adapter(policy, manifest, model.spec.adapter)
    try:
        result = preview(policy, manifest.tensors, optimizer=body.optimizer, initialised=manifest.initialised)
    except PolicyError as error:
        if body.task is None and model.spec.task is None and model.spec.adapter is None:
            error.message += _fitting_tasks(plain, policy)
        raise
    start = _start(result.plan, body.after)
    page = [decision.to_json() for decision in result.plan.decisions[start : start + body.limit]]
    return PolicyPreview(
        model=model.alias or model.name,
        resolved_model=model.name,
        data=page,
        has_more=start + body.limit < len(result.plan.decisions),
        first_id=page[0]["name"] if page else None,
        last_id=page[-1]["name"] if page else None,
        parts=[PartMatched.model_validate(each.to_json()) for each in matched(policy, manifest.tensors)],
        **result.to_json(),
    )


def _manifest(session: Session, project: str, plain: ChosenModel, task: str | None) -> Manifest | None:
    """The tensors for a task; those of another model of the folder where its own are not known."""
    known = plain.manifest_for(task)
    if known is None and task:
        similar = similar_tensors(session, project, plain, task)
        return Manifest(similar) if similar else None
    return known


def _start(plan: FreezePlan, after: str | None) -> int:
    if after is None:
        return 0
    for at, decision in enumerate(plan.decisions, start=1):
        if decision.name == after:
            return at
    raise InvalidRequest(f"no tensor {after!r} in this plan", param="after", code="invalid_cursor")


def _fitting_tasks(model: ChosenModel, policy: Policy) -> str:
    """What to add to a refusal where the policy is for the model of a task, and the request names no task."""
    tasks = [task for task in model.stored if task] if isinstance(model.stored, Mapping) else []
    fitting = []
    for task in tasks:
        known = model.manifest_for(task)
        with contextlib.suppress(PolicyError):
            preview(policy, known.tensors if known else ())
            fitting.append(task)
    if not fitting:
        return ""
    return f"; no task is named, and the policy fits the model with `task` (--task) {' or '.join(fitting)}"


def _unknown(model: ChosenModel, task: str | None) -> InvalidRequest:
    message = f"the tensors of {model.name!r} are not known"
    if model.stored is None and not model.spec.adapter:
        message += ": register it with POST /v1/models; a worker then reads it, once"
    elif isinstance(model.stored, Mapping):
        known = ", ".join(filter(None, model.stored))
        if task is None and model.spec.task is None:
            message = f"{model.name!r} has other tensors for each task; name one by `task` (--task): {known}"
            return InvalidRequest(message, param="task", code="missing_field")
        message += f" for the task {task or model.spec.task!r}; they are for {known}"
    else:
        message += ": for another task a model has other tensors"
    return InvalidRequest(message, param="model", code="model_not_described")
