"""Trains once more: a workspace as the supervisor makes it, and the trainer's own process on it."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from app.evidence.format.recipe import Recipe
from app.evidence.format.statement import FileRef
from app.freeze.policy import Policy
from app.specs.data import DataSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import read_model
from worker.protocol import Report, Stage, WorkOrder, Workspace, read_reports
from worker.reproduction.material import Material, Segment, drawn
from worker.supervisor.process.environment import cleaned

#: Room for kept results of frozen layers, where the run had such results of its project's jobs at hand.
PREFIX_ROOM: Final = 8 << 30
_LAST_LINES: Final = 12


class RerunFailed(Exception):
    """The trainer did not get to the end; the message has its own words."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """A run that ended: its folder, what it planned, and its own word."""

    workspace: Workspace
    plan: Report
    word: Mapping[str, Any]


def rerun(
    recipe: Recipe,
    material: Material,
    segment: Segment | None,
    *,
    base_files: tuple[FileRef, ...],
    folder: Path,
    device: str,
) -> Rerun:
    """Train again in `folder`, all of the run or one segment. Raises RerunFailed."""
    workspace = Workspace(folder).create()
    order = work_order(recipe, material, workspace, device=device, until=_until(recipe, segment))
    stage(material, workspace, base_files)
    if segment is not None and segment.start is not None and material.checkpoint is not None:
        shutil.copytree(material.checkpoint, workspace.checkpoints / f"step-{segment.start.step:08d}")
    if recipe.reported.prefix:
        workspace.prefix_cache.mkdir()
    if material.base is None and drawn(recipe):
        _train(replace(order, stage="initialise", devices=1, until=None), workspace, recipe)
    _train(order, workspace, recipe)
    reports, _ = read_reports(workspace.reports)
    plan = next((one for one in reports if one["type"] == "plan"), {})
    done = next((one for one in reports if one["type"] == "done"), {})
    return Rerun(workspace, plan, done.get("recipe") or {})


def work_order(
    recipe: Recipe, material: Material, workspace: Workspace, *, device: str, until: int | None
) -> WorkOrder:
    """The order that a supervisor would give, in this workspace."""
    request = recipe.request
    data = DataSpec.from_json(dict(request.data))
    train: Stage = "train"
    return WorkOrder(
        job_id=recipe.job_id,
        attempt=recipe.attempt,
        stage=train,
        model=read_model(dict(request.model)),
        task=request.task,
        data=replace(
            data,
            training=f"data/training{material.training.suffix}",
            validation=f"data/validation{material.validation.suffix}" if material.validation else None,
        ),
        hyperparameters=replace(Hyperparameters.from_json(dict(request.hyperparameters)), max_run_seconds=None),
        policy=Policy.from_json(dict(request.policy)),
        seed=request.seed,
        device=device,
        devices=request.devices,
        strategy=request.strategy,
        prefix_room=PREFIX_ROOM if recipe.reported.prefix else 0,
        until=until,
    )


def _until(recipe: Recipe, segment: Segment | None) -> int | None:
    """The step to end after: a segment's last one, or the one at which time was up; else None, for all of the run."""
    if segment is not None and segment.stop is not None:
        return segment.stop.step
    patient = recipe.request.hyperparameters.get("early_stopping_patience")
    steps, total = recipe.reported.steps, recipe.reported.total_steps
    return steps if steps is not None and total is not None and steps < total and not patient else None


def stage(material: Material, workspace: Workspace, base_files: tuple[FileRef, ...]) -> None:
    """Links to the files, under the names that they had in the run."""
    if material.base is not None:
        for file in base_files:
            target = workspace.base / file.name
            target.parent.mkdir(exist_ok=True)
            target.symlink_to((material.base / file.name).absolute())
    for role in ("training", "validation"):
        path: Path | None = getattr(material, role)
        if path is not None:
            (workspace.data / f"{role}{path.suffix}").symlink_to(path.absolute())
    if material.adapter is not None:
        workspace.adapter.parent.mkdir(exist_ok=True)
        workspace.adapter.symlink_to(material.adapter.absolute())


def _train(order: WorkOrder, workspace: Workspace, recipe: Recipe) -> None:
    """Run the trainer to its end, with as many threads as the run had: another count gives other bits."""
    order.save(workspace.root)
    home = workspace.root / "home"
    home.mkdir(exist_ok=True)
    threads = recipe.reported.environment.get("threads")
    environment = cleaned(home=home) | ({"OMP_NUM_THREADS": str(threads)} if isinstance(threads, int) else {})
    code = run_trainer(workspace, environment)
    if code:
        raise RerunFailed(_why(workspace, code))


def run_trainer(workspace: Workspace, environment: Mapping[str, str]) -> int:
    """The trainer in a process of its own; returns its exit status."""
    command = [sys.executable, "-P", "-s", "-m", "worker.trainer", str(workspace.root)]
    with workspace.log.open("ab") as log:
        return subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode


def _why(workspace: Workspace, code: int) -> str:
    reports, _ = read_reports(workspace.reports)
    failed = next((one for one in reversed(reports) if one["type"] == "failed"), None)
    if failed is not None:
        return f"the trainer refused it: {failed.get('message')}"
    lines = workspace.log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]
    return "\n".join([f"the trainer ended with code {code}:", *lines])
