"""Registers a folder under PERMAFROST_MODELS_DIR as a base model, which a worker then reads."""

from app.broker.notifier import Notifier
from app.db import Database, now
from app.errors import Conflict
from app.models.catalog import folder_of, task_of
from app.models.tables import Model
from app.settings import Settings
from app.specs.models import TransformersSpec, folder_name


def register(
    db: Database, settings: Settings, notifier: Notifier, *, folder: str, model_id: str | None, task: str | None
) -> Model:
    """The model's row; of a folder that is registered already, the one that it has. Raises ModelError, Conflict."""
    path = folder_of(settings, folder, param="path")
    spec = TransformersSpec.from_json({"path": folder, "task": task or task_of(path)})
    row, new = _register(db, model_id or folder, spec)
    if new:
        notifier.wake_model(row.id)
    return row


def _register(db: Database, model_id: str, spec: TransformersSpec) -> tuple[Model, bool]:
    with db.write() as session:
        row = session.get(Model, model_id)
        if row is None:
            row = Model(id=model_id, project=None, created_at=now(session), owned_by="permafrost", kind="base")
            row.status, row.spec, row.files, row.tensors = "pending", spec.to_json(), [], []
            session.add(row)
            return row, True
        if folder_name(row.model_spec) != spec.path or row.project is not None:
            raise Conflict(f"a model {model_id!r} exists already", code="model_exists", param="id")
        if row.status == "failed":
            row.status, row.error = "pending", None
            return row, True
        return row, False
