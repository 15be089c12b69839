"""Makes the database row of a job's model, which is composed of changed tensors and the base on download."""

import re
from typing import Any

from app.evidence.format.compose import ComposedFile
from app.evidence.format.statement import FileRef
from app.jobs.queue.tables import Job
from app.models.tables import Model
from worker.supervisor.artifacts import WEIGHT_FILES


def composed_model(
    job: Job, base: Model, layout: ComposedFile, weights: FileRef, others: list[dict[str, Any]], manifest: list[Any]
) -> Model:
    """A model of the job's project whose file of weights is composed on download."""
    merged = ("adapter",) if weights.name == WEIGHT_FILES["full"] else ()
    spec = {key: value for key, value in job.model_spec.items() if key not in ("weights", "new_tokens", *merged)}
    if "adapter" in spec:
        spec["adapter"] = {key: value for key, value in spec["adapter"].items() if key != "start"}
    return Model(
        id=model_id(job),
        project=job.project,
        owned_by=job.project,
        kind="fine_tuned",
        status="ready",
        spec=spec,
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


def model_id(job: Job) -> str:
    """`ft:<base>:<project>:<suffix>:<job>`, without a slash, since SDKs put it into a path.

    A fine-tune of a fine-tune is called after the first base.
    """
    name = job.model.split(":")[1] if job.model.startswith("ft:") else job.model
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80]
    return f"ft:{short}:{job.project}:{job.suffix or ''}:{job.id.rpartition('-')[2][:12]}"
