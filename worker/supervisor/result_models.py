"""Makes the database row of a job's model, which is composed of changed tensors and the base on download."""

import re
from dataclasses import replace
from typing import Any

from app.jobs.queue.tables import Job
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.specs.models import ModelSpec, TorchSpec
from worker.supervisor.artifacts import WEIGHT_FILES
from worker.supervisor.weight_files import WeightFile


def composed_model(
    job: Job, base: Model, weights: list[WeightFile], others: list[JsonDict], manifest: list[Any]
) -> Model:
    """A model of the job's project whose files of weights are composed on download."""
    refs = [each.ref for each in weights]
    return Model(
        id=model_id(job),
        project=job.project,
        owned_by=job.project,
        kind="fine_tuned",
        status="ready",
        spec=_result_spec(job.spec, merged=refs[0].name == WEIGHT_FILES["full"]).to_json(),
        base_id=base.id,
        job_id=job.id,
        files=[{"name": ref.name, "size": ref.size, "sha256": ref.sha256, "blob": None} for ref in refs] + others,
        tensors=[tensor for file in weights for tensor in file.tensors()],
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
