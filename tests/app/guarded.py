"""A service that asks for keys: two projects, a key of every role in each, one of every object in the first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select

from app.auth import api_keys
from app.db import Database
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Checkpoint
from app.main import create_app
from app.models.tables import Model
from app.settings import Settings
from app.storage.blobs import Storage
from app.vault import Vault
from app.webhooks.tables import Delivery
from migrations.tables import tables
from tests.app.conftest import AFFINE
from tests.app.jobs.jobs import new_job
from tests.app.webhooks.endpoints import new_endpoint

ROLES = ("reader", "writer", "admin")


@dataclass
class Guarded:
    application: FastAPI
    settings: Settings
    db: Database
    keys: dict[tuple[str, str], str] = field(default_factory=dict)

    def headers(self, project: str, role: str = "admin") -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[project, role]}"}


def guard(settings: Settings) -> Guarded:
    """The keys come first: without any the service would not start."""
    settings = settings.model_copy(update={"auth": "required"})
    db = Database(settings.database)
    tables().create_all(db.engine)
    keys = {}
    with db.write() as session:
        for project in ("mine", "other"):
            for role in ROLES:
                name = f"{role} of {project}"
                _, keys[project, role] = api_keys.make(session, project=project, role=role, name=name, expires_at=None)
    db.close()
    application = create_app(settings)
    return Guarded(application, settings, application.state.backends.database, keys)


def routes(application: FastAPI) -> Iterator[tuple[str, str, Any]]:
    """Method, path and route of everything that the application answers to, documented or not."""
    for route in application.routes:
        contexts = getattr(route, "effective_route_contexts", None)
        for each in contexts() if contexts else [route]:
            for method in sorted(getattr(each, "methods", None) or {"GET"}):
                if method != "HEAD":
                    yield method, each.path, each


def one_of_everything(guarded: Guarded, client: Any) -> dict[str, str]:
    """An object of each kind in the project `mine`: the name of its path parameter -> its id."""
    headers = guarded.headers("mine")
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", b'{"x": [1.0, 2.0], "y": 1.0}\n')}}
    file = client.post("files", headers=headers, **form).json()
    announced = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 1, "mime_type": "text/plain"}
    upload = client.post("uploads", headers=headers, json=announced).json()
    db = guarded.db
    job, _ = lifecycle.submit(db, new_job(project="mine", training_file=file["id"], model_spec=AFFINE))
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    news = AttemptUpdates(
        events=[NewEvent("one")],
        metrics=[(1, "train", {"loss": 1.0})],
        checkpoints=[NewCheckpoint(1, {"train_loss": 1.0})],
    )
    lifecycle.beat(db, lease, news)
    pair = {"data": form["data"], "files": {"file": ("b.jsonl", b'{"x": [1.0, 2.0], "y": 1.0}\n' * 2)}}
    trained_on = client.post("files", headers=headers, **pair).json()["id"]
    sweep = {"job": {"model": AFFINE, "training_file": trained_on}, "grid": {"seed": [1]}}
    sweep_id = client.post("fine_tuning/sweeps", headers=headers, json=sweep).json()["id"]
    client.post(f"fine_tuning/sweeps/{sweep_id}/cancel", headers=headers)
    model = Model(
        id="ft:affine:mine::1", project="mine", owned_by="mine", kind="fine_tuned", status="ready", spec=AFFINE
    )
    blob = _stored(guarded.settings)
    model.files = [{"name": "model.safetensors", "size": blob.size, "sha256": blob.sha256, "blob": blob.key}]
    model.tensors, model.manifest = [], []
    endpoint_id, _ = new_endpoint(
        db, Vault(guarded.settings.webhook_key_path), "fine_tuning.job.succeeded", project="mine"
    )
    secret = {"name": "hub-token", "kind": "hub", "scope": "acme", "value": "hf_canary"}
    client.post("secrets", headers=headers, json=secret)
    evidence = Evidence(job_id=job.id, attempt=1, verdict="verified", frozen_tensors=0, frozen_bytes=0)
    evidence.violations, evidence.checks, evidence.envelope = [], {}, b"{}"
    evidence.model_sig = b"{}"
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, model=model))
    with db.read() as session:
        delivery = session.scalars(select(Delivery)).one()
        checkpoint = session.scalars(select(Checkpoint)).one()
    return {
        "fine_tuning_job_id": job.id,
        "job_id": job.id,
        "checkpoint_id": checkpoint.id,
        "sweep_id": sweep_id,
        "file_id": file["id"],
        "upload_id": upload["id"],
        "model": model.id,
        "name": "model.safetensors",
        "webhook_endpoint_id": endpoint_id,
        "webhook_delivery_id": delivery.id,
        "secret_name": "hub-token",
        "tile": "0/000",
    }


def _stored(settings: Settings) -> Any:
    with Storage(settings.storage).writer() as writer:
        writer.write(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    return writer.blob
