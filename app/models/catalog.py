"""The available models: rows of the database, and folders under PERMAFROST_MODELS_DIR."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from app.db import Lock, locked
from app.errors import Gone, ModelError, NotFound
from app.evidence.format.compose import ComposedFile, Slice, compose
from app.evidence.format.modules import tensor_prefix
from app.freeze.plan import TensorInfo
from app.jsontypes import JsonDict
from app.models import manifest
from app.models.aliases import aliased, choice
from app.models.hub_ids import hub_model_id, store_model_id
from app.models.manifest import Manifest
from app.models.tables import Model
from app.settings import Settings
from app.specs.models import ModelChoice, ModelSpec, RegisteredSpec, TorchSpec, TransformersSpec

#: The end of a class name in config.json, and the task it is for.
_TASK_OF_CLASS: Final = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForImageClassification": "image-classification",
}
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_PREFIX: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=+-]+)+/?")
#: Its id has the digest and the project besides.
_MAX_PREFIX: Final = 200
_MANIFESTS: Final = manifest.ManifestCache()
_OUR_ARCHITECTURES: Final = ("affine", "convnet", "mlp")


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """The model of a job: its name, how to load it, its row, and its tensors where known.

    A model's head depends on the task. Where tensors are stored for one task only, `described_for` is that task; None:
    they hold for any task.
    """

    name: str
    spec: ModelSpec
    base_id: str | None = None
    stored: manifest.Stored | None = None
    described_for: str | None = None
    #: The name by which a request chose it, where that is an alias.
    alias: str | None = None
    #: Whether it is registered, and no worker has read its tensors yet.
    pending: bool = False

    def manifest_for(self, task: str | None) -> Manifest | None:
        """The manifest for a task; default: the task of the spec, or else the model's own."""
        task = task or self.spec.task or manifest.OWN
        if self.stored is None:
            return None
        if not isinstance(self.stored, Mapping) and self.described_for not in (None, task) and task:
            return None
        return manifest.for_task(self.stored, task, num_labels=self.spec.num_labels)

    def tensors_for(self, task: str) -> list[TensorInfo] | None:
        """The tensors that a job will have. None where unknown, or where the data decides the size of a new head."""
        described = self.manifest_for(task)
        return described.tensors if described and not described.open_head else None


def similar_tensors(session: Session, project: str, model: ChosenModel, task: str) -> list[TensorInfo] | None:
    """A model's tensors for a task, or those of another model of its folder: same names, maybe another head."""
    if not isinstance(model.spec, TransformersSpec) or not model.spec.as_registered:
        return None
    if known := model.manifest_for(task):
        return known.tensors
    spec = Model.spec
    same = (spec["path"].as_string() == model.spec.path, spec["task"].as_string() == task)
    ready = visible(project).where(*same, Model.status == "ready", Model.manifest.is_not(None))
    for row in session.scalars(ready.order_by(Model.created_at.desc()).limit(10)):
        if not row.model_spec.adapter and row.manifest is not None:
            similar = manifest.for_task(row.manifest, task)
            return similar.tensors if similar else None
    return None


def visible(project: str) -> Select[Model]:
    """Models that a project may use: its own, and base models, which belong to no project."""
    return select(Model).where(or_(Model.project.is_(None), Model.project == project))


def find_model(
    session: Session, project: str, model_id: str, *, param: str = "model", lock: Lock | None = None
) -> Model:
    """The model's row. `lock` makes transactions that use it and one that removes it wait for each other."""
    statement = visible(project).where(Model.id == model_id)
    row = session.scalar(locked(statement, lock))
    if row is None:
        raise NotFound(f"no model {model_id!r} in this project", param=param, code="model_not_found")
    if row.status == "dropped":
        raise Gone(f"model {model_id} is gone: {row.error}", param=param, code="model_gone")
    return row


def choose(session: Session, settings: Settings, project: str, requested: ModelChoice) -> ChosenModel:
    """The model that a request's `model` names, or stands for. ModelError, with the nearest name, if there is none."""
    if isinstance(requested, RegisteredSpec):
        return _by_id(session, settings, project, requested.id)
    if isinstance(requested, TorchSpec):
        return _torch(settings, requested)
    return _transformers(session, settings, project, requested)


def below_adapter(session: Session, settings: Settings, project: str, chosen: ChosenModel) -> ChosenModel:
    """The model that an adapter goes on top of; one without an adapter is returned as it is."""
    if not isinstance(chosen.spec, TransformersSpec) or chosen.spec.adapter is None:
        return chosen
    return choose(session, settings, project, replace(chosen.spec, adapter=None, quantize=None))


def folders(settings: Settings) -> Iterator[Path]:
    """Folders in the models folder that have a config.json, as transformers writes it."""
    if settings.models.is_dir():
        yield from sorted(path.parent for path in settings.models.glob("*/config.json"))


def folder_of(settings: Settings, name: str, *, param: str) -> Path:
    """The folder called `name`, never one outside of the models folder. Raises ModelError."""
    for folder in folders(settings):
        if folder.name == name:
            return folder
    _refuse_incomplete(settings, name, param=param)
    known = [folder.name for folder in folders(settings)]
    raise ModelError(f"no model folder is named {name!r}{_nearest(name, known)}", param=param, code="model_not_found")


def _refuse_incomplete(settings: Settings, name: str, *, param: str) -> None:
    """Raises ModelError for a folder in the models folder that is there, and holds no model."""
    if settings.models.is_dir() and name in (path.name for path in settings.models.iterdir() if path.is_dir()):
        message = f"the folder {name!r} {_lack(settings.models / name)}"
        raise ModelError(message, param=param, code="model_not_found")


def _lack(folder: Path) -> str:
    """Why a folder is no model, and what to put in its place."""
    names = [path.name for path in folder.iterdir()]
    if "adapter_config.json" in names:
        return (
            "holds an adapter, and no model (config.json): put the model that the adapter is for into a folder, and "
            "train a new adapter on it, or merge the two and save the whole model"
        )
    if any(name.endswith(".gguf") for name in names):
        return "holds GGUF files, and no config.json: take the model as transformers stores it, with .safetensors files"
    return "has no config.json, which says what kind of model it holds; save_pretrained of transformers writes it"


def task_of(folder: Path) -> str | None:
    """The task of the class that config.json names, or None when Permafrost does not train it."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        classes = [str(name) for name in config.get("architectures") or ()]
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return next((task for name in classes for end, task in _TASK_OF_CLASS.items() if name.endswith(end)), None)


def layout(row: Model, file: str) -> ComposedFile:
    """The layout of a file that is composed of slices on download."""
    prefix = tensor_prefix(file)
    slices = [
        Slice(
            name=each["name"].removeprefix(prefix),
            dtype=each["dtype"],
            shape=tuple(each["shape"]),
            blob=each["blob"],
            offset=each["offset"],
            nbytes=each["nbytes"],
            sha256=each["sha256"],
        )
        for each in row.tensors
        if each["file"] == file
    ]
    return compose(slices, {"format": "pt"})


def _by_id(session: Session, settings: Settings, project: str, model_id: str, *, aliases: bool = True) -> ChosenModel:
    """A model of the database, a folder, or what an alias stands for, in this order."""
    row = session.scalar(visible(project).where(Model.id == model_id))
    if row is not None:
        return _registered(row)
    if any(folder.name == model_id for folder in folders(settings)):
        return ChosenModel(model_id, TransformersSpec(path=model_id))
    if aliases and (target := aliased(settings, model_id)) is not None:
        return _by_alias(session, settings, project, model_id, target)
    _refuse_incomplete(settings, model_id, param="model")
    names = [
        *session.scalars(visible(project).where(Model.kind != "initial").with_only_columns(Model.id)),
        *(folder.name for folder in folders(settings)),
    ]
    hint = _nearest(model_id, names)
    if model_id in _OUR_ARCHITECTURES:
        hint = f'; to use this architecture, write {{"type": "torch", "architecture": "{model_id}", "kwargs": {{…}}}}'
    raise ModelError(f"no model is named {model_id!r}{hint}", param="model", code="model_not_found")


def _by_alias(session: Session, settings: Settings, project: str, alias: str, target: str) -> ChosenModel:
    """The model that an alias stands for; itself no alias."""
    requested = choice(target)
    try:
        if isinstance(requested, TransformersSpec):
            chosen = _of_hub(session, project, requested)
        else:
            chosen = _by_id(session, settings, project, target, aliases=False)
    except ModelError as error:
        message = f"{alias!r} stands for {target!r} here (PERMAFROST_MODEL_ALIASES): {error.message}"
        raise ModelError(message, param="model", code=error.code) from None
    return replace(chosen, alias=alias)


def _registered(row: Model) -> ChosenModel:
    if row.status == "dropped":
        raise ModelError(f"model {row.id} is gone: {row.error}", param="model", code="model_gone")
    if row.status == "failed":
        raise ModelError(f"model {row.id} could not be read: {row.error}", param="model")
    spec = row.model_spec
    if isinstance(spec, TransformersSpec) and spec.adapter:  # training goes on from this adapter, over the same base
        return ChosenModel(row.id, replace(spec, adapter=replace(spec.adapter, start=row.id)), base_id=row.base_id)
    task = None if isinstance(spec, TorchSpec) else spec.task or "its own"
    stored = _MANIFESTS.get((row.id, row.created_at), lambda: row.manifest)
    pending = row.status == "pending"
    return ChosenModel(row.id, spec, base_id=row.id, stored=stored, described_for=task, pending=pending)


def _transformers(session: Session, settings: Settings, project: str, requested: TransformersSpec) -> ChosenModel:
    if requested.of_hub:
        return _of_hub(session, project, requested)
    name = requested.path
    row = session.scalar(visible(project).where(Model.id == name, Model.kind == "base"))
    if row is None and name.startswith("ft:"):
        message = (
            f"{name!r} is the result of a job, and a path is a base's: to train it further, name it alone as `model`"
        )
        raise ModelError(f"{message}, without a spec or an adapter", param="model.path", code="model_not_found")
    if row is None:
        folder_of(settings, name, param="model.path")
        return ChosenModel(name, requested)
    return _of_base(row, requested, name=name)


def _of_hub(session: Session, project: str, requested: TransformersSpec) -> ChosenModel:
    """A model of a hub. The API makes no connections; a worker downloads the model."""
    if requested.of_store:
        return _of_store(session, project, requested)
    if not _HUB_ID.fullmatch(requested.path):
        message = f"{requested.path!r} is neither a model folder nor `owner/name` on a hub"
        raise ModelError(message, param="model.path", code="model_not_found")
    spec = replace(requested, revision=requested.revision or "main")
    revision = str(spec.revision)
    ids = [hub_model_id(spec.path, revision), hub_model_id(spec.path, revision, project=project)]
    row = session.scalar(visible(project).where(Model.id.in_(ids), Model.kind == "base").order_by(Model.project))
    if row is None:
        return ChosenModel(spec.path, spec)
    return _of_base(row, spec, name=row.id)


def _of_store(session: Session, project: str, requested: TransformersSpec) -> ChosenModel:
    """A model below a prefix of an object store. A worker fetches it; the digest of its files is its revision."""
    if not _PREFIX.fullmatch(requested.path) or len(requested.path) > _MAX_PREFIX or ".." in requested.path.split("/"):
        message = f"{requested.path!r} is no prefix of a store, such as s3://bucket/models/encoder"
        raise ModelError(message, param="model.path", code="model_not_found")
    if requested.revision is None:
        return ChosenModel(requested.path, requested)
    if not re.fullmatch(r"[0-9a-f]{64}", requested.revision):
        message = "the revision of a store's model is the digest of its files, 64 hexadecimal digits; absent: any"
        raise ModelError(message, param="model.revision")
    name = store_model_id(requested.path, requested.revision, project=project)
    row = session.scalar(visible(project).where(Model.id == name, Model.kind == "base"))
    return ChosenModel(requested.path, requested) if row is None else _of_base(row, requested, name=row.id)


def _of_base(row: Model, requested: TransformersSpec, *, name: str) -> ChosenModel:
    """A registered base as a spec wants it. Its manifest holds only without an adapter and new tokens."""
    registered = _registered(row)
    spec = requested.over(registered.spec) if isinstance(registered.spec, TransformersSpec) else requested
    stored = registered.stored if requested.as_registered else None
    return replace(registered, name=name, spec=spec, stored=stored)


def _torch(settings: Settings, requested: TorchSpec) -> ChosenModel:
    name, kwargs = requested.architecture, requested.kwargs or {}
    architectures = sorted(
        {*_OUR_ARCHITECTURES, *(each.name for each in entry_points(group="permafrost.architectures"))}
    )
    if (
        name not in architectures and settings.embedded
    ):  # in a deployment, workers may have architectures that this process lacks
        message = f"no architecture is named {name!r}{_nearest(name, architectures)}"
        raise ModelError(message, param="model.architecture", code="unknown_architecture")
    return ChosenModel(name, requested, stored=_affine(kwargs) if name == "affine" else None)


def _affine(kwargs: Mapping[str, Any]) -> list[JsonDict]:
    """The two tensors of `affine`, from its kwargs. Raises ModelError."""
    sizes = {}
    for key in ("in_features", "out_features"):
        value = kwargs.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**31:
            suffix = f", not {value!r}" if key in kwargs else ""
            message = f"affine needs {key!r}, a whole number from 1 to {2**31:,}{suffix}"
            raise ModelError(message, param=f"model.kwargs.{key}")
        sizes[key] = value
    if unknown := sorted(set(kwargs) - set(sizes)):
        message = f"affine does not take {unknown[0]!r}; it takes in_features and out_features"
        raise ModelError(message, param=f"model.kwargs.{unknown[0]}")
    rows, columns = sizes["in_features"], sizes["out_features"]
    return [
        {"name": "weight", "shape": [rows, columns], "dtype": "F32", "module_types": ["Affine"]},
        {"name": "bias", "shape": [columns], "dtype": "F32", "module_types": ["Affine"]},
    ]


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    listed = sorted(set(names), key=lambda name: (name.startswith("ft:"), name))  # bases before results
    return f"; available: {', '.join(listed[:20])}" if listed else "; no model is available yet"
