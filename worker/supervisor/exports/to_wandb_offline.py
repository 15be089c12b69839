"""Writes a job as an offline run of Weights & Biases: `wandb sync` takes it from there, on any machine."""

import os
import shutil
from pathlib import Path

from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.exports.to_wandb import summary
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.sources.arriving import SourceRefused


def send(destination: Destination, job: TrackedJob, *, into: Path) -> JsonDict:
    """Writes below `into`, in the place of an earlier run of the job. Nothing is connected to. Raises SourceRefused."""
    os.environ |= {"WANDB_DIR": str(into), "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    try:
        import wandb
    except ImportError:
        message = "this worker has no package `wandb`: `pip install permafrost[wandb]`"
        raise SourceRefused(message, code="destination_refused") from None

    into.mkdir(parents=True, exist_ok=True)
    for earlier in into.glob(f"wandb/offline-run-*-{job.id}"):
        shutil.rmtree(earlier)
    entity, _, project = destination.path.partition("/")
    run = wandb.init(
        entity=entity,
        project=project,
        id=job.id,
        name=job.name,
        mode="offline",
        dir=into,
        config=job.configuration,
        tags=["permafrost"],
        settings=_quiet(wandb),
    )
    for step, values in job.by_step():
        run.log(values, step=step)
    run.summary.update(job.facts | {name: value for name, value in summary(job).items() if name[0] != "_"})
    folder = Path(run.dir).parent
    run.finish(exit_code=int(not job.succeeded))
    return {"folder": folder.name, "run_id": job.id}


def _quiet(wandb: object) -> object:
    """Nothing of this machine goes along: no packages, host, code or measurements."""
    return wandb.Settings(  # type: ignore[attr-defined]
        console="off",
        disable_code=True,
        disable_git=True,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
