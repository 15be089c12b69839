"""What an export sends, as a folder: the files of the result, its attestation, and a description."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import NotFound
from app.evidence.tables import Evidence
from app.jobs.queue.tables import Job, Metric
from app.jsontypes import JsonDict
from app.models.catalog import layout
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.supervisor.exports.tracked_job import TrackedJob

RESULT = "result"
ATTESTATION = "attestation.json"
DESCRIPTION = "content.json"


@dataclass(frozen=True, slots=True)
class ExportContent:
    """A job's rows, as an export needs them."""

    job: Job
    model: Model | None
    envelope: bytes | None
    verdict: str | None
    metrics: list[JsonDict]

    @classmethod
    def of(cls, db: Database, job_id: str) -> "ExportContent":
        """Raises NotFound where the result is gone."""
        with db.read() as session:
            job = session.get(Job, job_id)
            if job is None:
                raise NotFound(f"job {job_id} was deleted")
            model = session.get(Model, job.fine_tuned_model) if job.fine_tuned_model else None
            if job.fine_tuned_model and (model is None or not model.files):
                raise NotFound(f"the model {job.fine_tuned_model} was deleted")
            if model is not None:
                _ = model.tensors  # a deferred column, read while there is a session
            evidence = session.get(Evidence, job_id)
            envelope, verdict = (evidence.envelope, evidence.verdict) if evidence else (None, None)
            return cls(job, model, envelope, verdict, _metrics(session, job_id))

    def write(self, folder: Path, storage: Storage, *, destination: str) -> None:
        """Writes the folder: blobs of a local storage are links."""
        result = folder / RESULT
        result.mkdir(parents=True)
        for file in self.model.files if self.model else ():
            target = result / file["name"]
            target.parent.mkdir(exist_ok=True)
            if file["blob"] is not None:
                storage.fetch(file["blob"], target)
            else:
                assert self.model is not None
                with target.open("wb") as composed:
                    for chunk in layout(self.model, file["name"]).stream(storage.open):
                        composed.write(chunk)
        if self.envelope is not None:
            (result / ATTESTATION).write_bytes(self.envelope)
        (folder / DESCRIPTION).write_text(json.dumps({"destination": destination, "job": self._tracked().to_json()}))

    def _tracked(self) -> TrackedJob:
        job = self.job
        return TrackedJob(
            id=job.id,
            status=job.status,
            model=job.fine_tuned_model,
            verdict=self.verdict,
            suffix=job.suffix,
            started=int((job.started_at or job.created_at).timestamp() * 1000),
            ended=int(job.finished_at.timestamp() * 1000) if job.finished_at else None,
            params=_flat({"model": job.model, "task": job.task, "seed": job.seed, **job.hyperparameters}),
            metrics=self.metrics,
        )


def _metrics(session: Session, job_id: str) -> list[JsonDict]:
    rows = session.scalars(select(Metric).where(Metric.job_id == job_id).order_by(Metric.step, Metric.split))
    return [{"step": row.step, "split": row.split, "values": row.values} for row in rows]


def _flat(values: JsonDict, prefix: str = "") -> dict[str, str]:
    """Nested options by dotted names, as trackers list them."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = _text(value)
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
