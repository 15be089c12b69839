"""Describes registered models: stores a model's files, and lists its tensors' names and shapes in its manifest."""

import json
import threading
from typing import Any, Final

import structlog

from app.errors import PermafrostError
from app.models import manifest
from app.models.catalog import folder_of, task_of
from app.models.tables import Model
from app.specs.models import folder_name
from worker.protocol import EXIT_DONE, WorkOrder, Workspace
from worker.supervisor import attempt_folder, bases
from worker.supervisor.outcomes import TrainerRefused
from worker.supervisor.reports import ReportReader
from worker.supervisor.runner import Runner

log = structlog.get_logger(__name__)

#: Seconds that a process may take to build a model without weights and list its tensors.
SECONDS: Final = 600.0


class Describer:
    """Describes one model at a time, in the thread that comes first; other threads queue theirs and return."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._pending: set[str] = set()
        self._busy = threading.Lock()

    def describe(self, model_id: str) -> None:
        """Describe a model, now or after the current one. One queued in the last moment is found by maintenance."""
        self._pending.add(model_id)
        if not self._busy.acquire(blocking=False):
            return
        try:
            while self._pending:
                _describe(self._runner, self._pending.pop())
        finally:
            self._busy.release()


def _describe(runner: Runner, model_id: str) -> None:
    """Make a pending model ready, or failed with the reason. Doing it twice, or in two workers, changes nothing."""
    model = bases.find(runner.db, model_id)
    if model is not None and model.status != "pending":
        return
    try:
        if model is None or not model.files:
            path = folder_name(model.model_spec) if model else model_id
            folder = folder_of(runner.settings, path, param="model.path")
            model = bases.register(runner.db, runner.storage, folder, model_id=model_id)
        tensors = _manifest(runner, model)
    except PermafrostError as error:
        log.warning("a model cannot be described", model=model_id, error=error.message)
        bases.fail(runner.db, model_id, error.message)
        return
    bases.ready(runner.db, model_id, tensors)
    log.info("a model is described", model=model_id, tensors=len(model.tensors))


def _manifest(runner: Runner, model: Model) -> Any:
    workspace = attempt_folder.locate(runner.settings.work, f"describe-{runner.worker.replace('/', '-')}", 0)
    attempt_folder.create(workspace)
    try:
        attempt_folder.stage_base(workspace, model, runner.storage)
        task = model.model_spec.task or task_of(workspace.base)
        order = WorkOrder(job_id=model.id, stage="describe", model=model.model_spec, task=task, device="cpu")
        order.save(workspace.root)
        return _run(runner, workspace)
    finally:
        attempt_folder.discard(workspace, ended=True)


def _run(runner: Runner, workspace: Workspace) -> Any:
    reports = ReportReader(workspace.reports)
    with runner.forkserver.start(workspace.root, environment={"CUDA_VISIBLE_DEVICES": ""}) as child:
        code = child.wait(SECONDS)
        if code is None:
            child.kill()
            child.wait()
    reports.read()
    if reports.failed is not None:
        raise TrainerRefused(reports.failed)
    if code != EXIT_DONE:
        lines = " / ".join(attempt_folder.log_tail(workspace, runner.path_aliases(workspace))[-3:])
        raise PermafrostError(f"the process that reads the model ended with code {code}: {lines}")
    try:
        return manifest.checked(json.loads(workspace.manifest.read_text())["tensors"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PermafrostError(
            f"the process that reads the model wrote a manifest that cannot be read: {error!r}"
        ) from error
