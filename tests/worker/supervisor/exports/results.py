"""A job that has ended, with a result, curves and an attestation, as exporters find it."""

from typing import Any

from app.db import now
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.models.tables import Model
from app.secrets import queries
from app.secrets.schemas import SecretSet
from app.settings import Settings
from app.storage.blobs import Storage
from app.vault import Vault
from tests.app.jobs.jobs import new_job
from tests.conftest import Deployment

FILES = {"adapter_model.safetensors": b"\x02\0\0\0\0\0\0\0{}", "adapter_config.json": b"{}", "README.md": b"# result\n"}
ATTESTATION = b'{"payload": "e30="}'
POINTS = [(1, "train", {"loss": 2.0}), (2, "train", {"loss": 1.0}), (2, "valid", {"loss": 1.5})]


def settings_of(deployment: Deployment) -> Settings:
    return deployment.settings.model_copy(update={"fetch_allow": "127.0.0.0/8"})


def ended_job(deployment: Deployment, *destinations: str, status: str = "succeeded") -> str:
    """The id of a job whose result goes to these destinations."""
    db, storage = deployment.db, Storage(deployment.settings.storage)
    options: dict[str, Any] = {"hyperparameters": {"n_epochs": 2, "optimizer": {"name": "adamw"}}, "suffix": "tuned"}
    job, _ = lifecycle.submit(db, new_job(**options), destinations=destinations)
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    lifecycle.beat(db, lease, AttemptUpdates(metrics=POINTS))
    if status == "failed":
        lifecycle.finish(db, lease, Outcome("failed", error={"code": "x", "message": "x", "param": None}))
        return job.id
    model = Model(id=f"ft:affine:default::{job.id[-6:]}", project="default", owned_by="default", kind="fine_tuned")
    model.status, model.spec, model.tensors, model.manifest, model.files = "ready", job.model_spec, [], [], []
    for name, data in FILES.items():
        with storage.writer() as writer:
            writer.write(data)
        blob = writer.blob
        model.files = [*model.files, {"name": name, "size": blob.size, "sha256": blob.sha256, "blob": blob.key}]
    evidence = Evidence(job_id=job.id, attempt=1, verdict="verified", frozen_tensors=1, frozen_bytes=4)
    evidence.violations, evidence.checks, evidence.envelope = [], {}, ATTESTATION
    with db.read() as session:
        evidence.created_at = now(session)
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, model=model))
    return job.id


def set_secret(deployment: Deployment, **fields: Any) -> None:
    with deployment.db.write() as session:
        queries.put(session, Vault(deployment.settings.webhook_key_path), "default", SecretSet(name="ours", **fields))
