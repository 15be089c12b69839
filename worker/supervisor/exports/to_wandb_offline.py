"""Writes a job as an offline run of Weights & Biases: `wandb sync` takes it from there, on any machine."""

import os
import shutil
from pathlib import Path

from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.exports.to_wandb import configuration, summary
from worker.supervisor.exports.tracking import by_step, facts
from worker.supervisor.sources.arriving import SourceRefused


def send(destination: Destination, told: JsonDict, *, into: Path) -> JsonDict:
    """Writes below `into`, in the place of an earlier run of the job. Nothing is connected to. Raises SourceRefused."""
    os.environ |= {"WANDB_DIR": str(into), "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    try:
        import wandb
    except ImportError:
        message = "this worker has no package `wandb`: `pip install permafrost[wandb]`"
        raise SourceRefused(message, code="destination_refused") from None

    into.mkdir(parents=True, exist_ok=True)
    for earlier in into.glob(f"wandb/offline-run-*-{told['job']}"):
        shutil.rmtree(earlier)
    entity, _, project = destination.path.partition("/")
    run = wandb.init(
        entity=entity,
        project=project,
        id=told["job"],
        name=told["suffix"] or told["job"],
        mode="offline",
        dir=into,
        config=configuration(told),
        tags=["permafrost"],
        settings=_quiet(wandb),
    )
    for step, values in by_step(told["metrics"]):
        run.log(values, step=step)
    run.summary.update(facts(told) | {name: value for name, value in summary(told).items() if name[0] != "_"})
    folder = Path(run.dir).parent
    run.finish(exit_code=int(told["status"] != "succeeded"))
    return {"folder": folder.name, "run_id": told["job"]}


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
