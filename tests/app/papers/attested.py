"""A job whose result, attestation and recipe are a small world's, in the database and storage of an application."""

import json
from pathlib import Path
from typing import Any

from app.evidence.format.digest import sha256_file
from app.evidence.tables import Evidence
from app.http.dependencies import Backends
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.jobs.queue.tables import Job, Metric
from app.models.tables import Model
from app.storage.blobs import Storage
from tests.app.jobs.jobs import claim, new_job
from tests.tamper import recipes
from tests.tamper.kit import World

README = "---\nlicense: apache-2.0\ntraining_flops: 1.2e12\n---\n# toy\n"


def attested(backends: Backends, world: World, *, readme: str | None = README, recipe: Any = None) -> str:
    """Stores base and result of the world, and a job between them that has succeeded. Returns the job's id."""
    sealed = recipes.sign(world, recipe)
    storage, db = backends.storage, backends.database
    if readme is not None:
        (world.root / "README.md").write_text(readme)
    base = Model(id="toy", project=None, owned_by="permafrost", kind="base", status="ready")
    base.spec, base.root = {"type": "transformers", "path": "toy"}, world.pinned
    papers = [] if readme is None else [{**_file(storage, world.root / "README.md"), "paper": True}]
    base.files = [*(_file(storage, path) for path in sorted(world.base.iterdir())), *papers]
    job, _ = lifecycle.submit(
        db, new_job(model="toy", task="text-classification", hyperparameters={"n_epochs": "auto"})
    )
    result = Model(id=f"ft:toy:default::{job.id}", project="default", owned_by="default", kind="fine_tuned")
    result.status, result.spec, result.job_id, result.base_id = "ready", base.spec, job.id, "toy"
    result.files = [_file(storage, path) for path in sorted(world.result.iterdir())]
    with db.write() as session:
        base.created_at = job.created_at
        session.add(base)
        session.get_one(Job, job.id).base_model = "toy"
        session.add(Metric(job_id=job.id, step=20, split="valid", values={"accuracy": 0.75, "loss": 0.5}))
    evidence = Evidence(job_id=job.id, attempt=1, verdict="verified", frozen_tensors=4, frozen_bytes=560)
    evidence.violations, evidence.checks, evidence.base_root = [], {}, world.pinned
    evidence.envelope, evidence.keyid = json.dumps(sealed).encode(), world.key.keyid
    lifecycle.finish(db, claim(db), Outcome("succeeded", evidence=evidence, parameters=[], model=result))
    return job.id


def _file(storage: Storage, path: Path) -> dict[str, Any]:
    blob = storage.put(path)
    return {"name": path.name, "size": blob.size, "sha256": sha256_file(path), "blob": blob.key}
