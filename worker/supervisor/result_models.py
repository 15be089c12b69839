"""Makes the database row of a job's model, which is composed of changed tensors and the base on download."""

import re
from dataclasses import replace
from typing import Any

from app.evidence.format.compose import ComposedFile
from app.evidence.format.statement import FileRef
from app.jobs.queue.tables import Job
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.specs.models import ModelSpec, TorchSpec
from worker.supervisor.artifacts import WEIGHT_FILES


def composed_model(
    job: Job, base: Model, layout: ComposedFile, weights: FileRef, others: list[JsonDict], manifest: list[Any]
) -> Model:
    """A model of the job's project whose file of weights is composed on download."""
    return Model(
        id=model_id(job),
        project=job.project,
        owned_by=job.project,
        kind="fine_tuned",
        status="ready",
        spec=_result_spec(job.spec, merged=weights.name == WEIGHT_FILES["full"]).to_json(),
        base_id=base.id,
        job_id=job.id,
        files=[{"name": weights.name, "size": weights.size, "sha256": weights.sha256, "blob": None}, *others],
        tensors=[
            {
                "file": weights.name,
                "name": each.name,
                "dtype": each.dtype,
                "shape": list(each.shape),
                "nbytes": each.nbytes,
                "sha256": each.sha256,
                "blob": each.blob,
                "offset": each.offset,
            }
            for each in layout.slices
        ],
        manifest=manifest,
    )


def _result_spec(spec: ModelSpec, *, merged: bool) -> ModelSpec:
    """How the result is loaded: with its own weights and tokenizer, and with an adapter of its own or none."""
    if isinstance(spec, TorchSpec):
        return replace(spec, weights=None)
    adapter = None if merged or spec.adapter is None else replace(spec.adapter, start=None)
    return replace(spec, new_tokens=None, adapter=adapter)


def model_id(job: Job) -> str:
    """`ft:<base>:<project>:<suffix>:<job>`, without a slash, since SDKs put it into a path.

    A fine-tune of a fine-tune is called after the first base.
    """
    name = job.model.split(":")[1] if job.model.startswith("ft:") else job.model
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80]
    return f"ft:{short}:{job.project}:{job.suffix or ''}:{job.id.rpartition('-')[2][:12]}"
