"""/v1/models: list, register, read, compare, download and delete models."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.convertors import register_url_convertor

from app.auth.caller import AsAdmin, AsReader, AsWriter
from app.errors import InvalidRequest, NotFound
from app.evidence.format.compose import ComposedFile
from app.http.dependencies import Blobs, Config, Db, NotifierDep
from app.http.downloads import Reader, blob_bytes, download
from app.http.json_body import JsonRoute
from app.http.query_params import bracketed
from app.jobs.queue.model_removal import remove_model
from app.models.aliases import aliased
from app.models.catalog import find_model, layout
from app.models.listing import UnusedFolder, page, unused_folders
from app.models.registration import register
from app.models.schemas import (
    ModelCompare,
    ModelComparison,
    ModelDeleted,
    ModelKind,
    ModelList,
    ModelObject,
    ModelRegister,
    TensorList,
    TensorObject,
)
from app.models.tables import Model
from app.models.url import ModelFileConvertor, ModelIdConvertor
from app.openapi.prose import BINARY, CONFLICT, ERRORS, GONE
from app.paging.keyset import AfterQuery, OrderQuery
from app.storage.blobs import Storage

register_url_convertor("model_id", ModelIdConvertor())
register_url_convertor("model_file", ModelFileConvertor())
router = APIRouter(prefix="/models", tags=["Models"], responses=ERRORS, route_class=JsonRoute)

ModelId = Annotated[str, Path(description="Id of a model.", examples=["minilm"])]


@router.get("", operation_id="listModels", summary="List models")
def list_models(
    request: Request,
    caller: AsReader,
    db: Db,
    settings: Config,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: OrderQuery = "desc",
    kind: Annotated[list[ModelKind] | None, Query(description="Only models of one of these kinds.")] = None,
) -> ModelList:
    """The project's models and the base models; also folders on the server that no job has used yet (`available`).

    The `openai` SDK reads one page of this list, so a page holds 10,000 models where no limit is given.
    """
    kinds = [*(kind or ()), *bracketed(request, "kind", ModelKind)]
    with db.read() as session:
        models, more = page(session, settings, caller.project, kinds=kinds, after=after, limit=limit, order=order)
    return ModelList.page([_object(model) for model in models], more=more)


@router.post("", operation_id="registerModel", summary="Register a base model", responses=CONFLICT)
def register_model(
    base: Annotated[ModelRegister, Body()], caller: AsAdmin, db: Db, settings: Config, notifier: NotifierDep
) -> ModelObject:
    """A worker then reads the folder and stores its files. Registering the same folder again changes nothing."""
    row = register(db, settings, notifier, folder=base.path, model_id=base.id, task=base.task)
    return ModelObject.of(row)


@router.post(
    "/compare",
    operation_id="compareModels",
    summary="Compare two models",
    response_class=StreamingResponse,
    responses={200: {"model": ModelComparison}, **CONFLICT, **GONE},
)
def compare_models(body: Annotated[ModelCompare, Body()], caller: AsReader, db: Db, storage: Blobs) -> Response:
    """What changed, tensor by tensor; with `freeze_policy`, whether the tensors that it freezes are bit-identical.

    To compare folders, use `permafrost diff`. The answer is streamed: if it ends early, it is not valid JSON.
    """
    from app.models.compare import prepare  # numpy, which nothing else here needs

    with db.read() as session:
        base, result = (
            find_model(session, caller.project, name, param=param)
            for param, name in (("base", body.base), ("result", body.result))
        )
        policy = body.freeze_policy.normal() if body.freeze_policy is not None else None
        comparison = prepare(storage, base, result, policy)
    answer = comparison.to_json_lines(statistics=body.statistics, everything=body.unchanged)
    return StreamingResponse(answer, media_type="application/json")


# The longer routes come first: a model's id may contain slashes, and {model:path} matches them.
@router.get("/{model:path}/tensors", operation_id="listModelTensors", summary="List a model's tensors", responses=GONE)
def list_tensors(
    model: ModelId,
    caller: AsReader,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> TensorList:
    """Name, dtype, shape and SHA-256 of the bytes of every tensor, in UTF-8 order of names."""
    with db.read() as session:
        tensors = find_model(session, caller.project, model).tensors
    ordered = sorted(tensors, key=lambda tensor: tensor["name"].encode())
    start = 0
    if after is not None:
        names = [tensor["name"] for tensor in ordered]
        if after not in names:
            raise InvalidRequest(f"no tensor {after!r} in this model", param="after", code="invalid_cursor")
        start = names.index(after) + 1
    data = [TensorObject.of(tensor) for tensor in ordered[start : start + limit]]
    return TensorList.page(data, more=start + limit < len(ordered))


@router.get(
    "/{model:path}/files/{name:model_file}",
    operation_id="downloadModelFile",
    summary="Download a model's file",
    response_class=StreamingResponse,
    responses={**BINARY, **GONE},
)
def download_model_file(
    model: ModelId,
    name: Annotated[str, Path(examples=["model.safetensors"])],
    request: Request,
    caller: AsReader,
    db: Db,
    storage: Blobs,
) -> Response:
    """`model.safetensors` is composed while it is sent: frozen tensors from the base, others from the result."""
    with db.read() as session:
        row = find_model(session, caller.project, model)
        files = {each["name"]: each for each in row.files}
        if name not in files:
            listed = ", ".join(files) or "not stored yet"
            raise NotFound(f"model {model} has no file {name!r}; its files are {listed}", param="name")
        file = files[name]
        composed = layout(row, name) if file["blob"] is None else None
    read = composed_bytes(storage, composed) if composed else blob_bytes(storage, file["blob"])
    return download(request, size=file["size"], sha256=file["sha256"], name=name, read=read)


@router.get("/{model:model_id}", operation_id="retrieveModel", summary="Read a model", responses=GONE)
def retrieve_model(model: ModelId, caller: AsReader, db: Db, settings: Config) -> ModelObject:
    """A base model, or the result of a job, with its job and its base model. An alias gives the model it stands for."""
    with db.read() as session:
        try:
            return _object(find_model(session, caller.project, model))
        except NotFound:
            for folder in unused_folders(session, settings, caller.project):
                if folder.id in (model, aliased(settings, model)):
                    return _named(_object(folder), model)
            if (target := aliased(settings, model)) is None:
                raise
        return _named(_object(find_model(session, caller.project, target)), model)


@router.delete(
    "/{model:model_id}", operation_id="deleteModel", summary="Delete a model", responses={**CONFLICT, **GONE}
)
def delete_model(model: ModelId, caller: AsWriter, db: Db, storage: Blobs) -> ModelDeleted:
    """Refused while other models or jobs use it; `errors` in the answer lists those."""
    remove_model(db, storage, caller.project, model, may_remove_bases=caller.role == "admin")
    return ModelDeleted(id=model)


def composed_bytes(storage: Storage, composed: ComposedFile) -> Reader:
    """A reader of a file that is composed of slices, which opens each blob when it reaches it."""

    def read(start: int, stop: int) -> Iterator[bytes]:
        return composed.stream(storage.open, start, stop)

    return read


def _named(model: ModelObject, name: str) -> ModelObject:
    """The model under the requested name, with its own id beside it where that differs."""
    return model if model.id == name else model.model_copy(update={"id": name, "alias_of": model.id})


def _object(model: Model | UnusedFolder) -> ModelObject:
    if isinstance(model, Model):
        return ModelObject.of(model)
    return ModelObject.of_folder(model.path, created=int(model.created_at.timestamp()))
