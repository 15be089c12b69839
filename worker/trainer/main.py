"""One attempt at one job, in a process of its own: from a workspace's work order to its out/ folder."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from app.errors import ModelError, PermafrostError
from app.evidence.format.digest import sha256_file
from app.freeze.plan import FreezePlan
from app.specs.models import TorchSpec
from worker.protocol import (
    EXIT_DEVICE_LOST,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_NO_ROOM,
    EXIT_STOPPED,
    Reporter,
    WorkOrder,
    Workspace,
    write_json,
)
from worker.trainer import checkpoint, determinism, export
from worker.trainer.checkpoint import NO_ROOM
from worker.trainer.data import reading
from worker.trainer.data.reading import DataSplits
from worker.trainer.models import card, loading, manifest, merging
from worker.trainer.models.tracked import Readings, TrackedModel
from worker.trainer.ranks.group import Group, joined
from worker.trainer.ranks.launch import launch
from worker.trainer.ranks.replicas import refuse_different_replicas
from worker.trainer.training import compiling, loop, memory, tasks
from worker.trainer.training.divergence import Diverged
from worker.trainer.training.loop import Ending, Run
from worker.trainer.training.setup import assemble
from worker.trainer.training.stop import Stopped, StopRequest
from worker.trainer.witness.report import WitnessReport

Stage = Callable[[WorkOrder, Workspace, Reporter, StopRequest], None]


#: What cudaGetErrorString says where the hardware or its driver has failed.
LOST_DEVICE = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "device(s) is/are busy or unavailable",
    "no CUDA-capable device",
    "hardware stack error",
    "system not yet initialized",
    "unknown error",
)


class OutOfMemory(PermafrostError):
    """The device has too little memory for this model and batch."""

    code = "out_of_memory"


def run(workspace: Path) -> None:
    """Do what the work order says. SystemExit: 0 done, 75 stopped on request, 1 after a failed report.

    Any other exception is a fault of ours: its traceback goes to the log, and the supervisor counts a crash.
    """
    place = Workspace(workspace).create()
    order = _order(place)
    if order.stage == "train" and order.devices > 1 and "RANK" not in os.environ:
        raise SystemExit(launch(place, order.devices, run))
    rank = int(os.environ.get("RANK", "0"))
    silent = Reporter(Path(os.devnull), aloud=False)  # of all ranks but the first
    with Reporter(place.reports) as reporter, silent, StopRequest() as stop:
        try:
            STAGES[order.stage](order, place, silent if rank else reporter, stop)
        except Stopped as stopped:
            if not rank:
                reporter.event(f"stopped on request after step {stopped.step}", step=stopped.step)
            raise SystemExit(EXIT_STOPPED) from None
        except PermafrostError as error:
            _report_failure(reporter, error, rank)
            raise SystemExit(EXIT_FAILED) from error
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            print(f"no room on the disk: {error}", flush=True)  # there may be none for a report either
            raise SystemExit(EXIT_NO_ROOM) from error
        except RuntimeError as error:
            if memory.ran_out(error):
                _report_failure(reporter, OutOfMemory(str(error), param="hyperparameters.batch_size"), rank)
                raise SystemExit(EXIT_FAILED) from error
            if (refused := compiling.refusal(error)) is not None:
                traceback.print_exc()
                _report_failure(reporter, refused, rank)
                raise SystemExit(EXIT_FAILED) from error
            if not device_is_lost(error):
                raise
            reporter.event(f"the device is lost: {str(error).splitlines()[0]}", level="error")
            raise SystemExit(EXIT_DEVICE_LOST) from error
    raise SystemExit(EXIT_DONE)


def _order(place: Workspace) -> WorkOrder:
    try:
        return WorkOrder.load(place.root)
    except PermafrostError as error:
        with Reporter(place.reports) as reporter:
            _report_failure(reporter, error, int(os.environ.get("RANK", "0")))
        raise SystemExit(EXIT_FAILED) from error


def device_is_lost(error: RuntimeError) -> bool:
    """Whether CUDA blames the device. A fault of the model, such as an assertion in a kernel, is none of these."""
    text = str(error)
    return "CUDA" in text and any(each in text for each in LOST_DEVICE)


def train(order: WorkOrder, place: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Load, plan, observe, apply, train, observe, export."""
    reporter.stage("loading")
    determinism.configure()
    with joined(order) as group:
        task = tasks.name_of(order.model, order.task, workspace=place.root, data=order.data)
        source = tasks.read(order, place, task=task)
        subject = TrackedModel.of(
            loading.load(order.model, place.base, task=task, labels=source.labels, seed=order.seed)
        )
        _stop_if_asked(stop, group)

        if _merges(subject):
            merging.plan_of(subject.loaded, order.policy)
        plan = subject.plan(order.policy)
        loaded = subject.read_loaded(plan)
        refuse_different_replicas(group, subject.live(), step=0)
        if group.leads:
            export.write_initial(place, subject)
        run = assemble(order, place, subject, plan, source, task=task, reporter=reporter, stop=stop, group=group)
        form = run.whole()
        if form is not None:
            export.write_form(place, form, order.model, task=task, labels=source.labels)
        _stop_if_asked(stop, group)

        reporter.stage("training")
        with run.watch.witness:
            try:
                with run.writer:
                    ending = loop.train(run)
            except Diverged as diverged:
                raise _with_checkpoint(diverged, place) from None
        if run.caching is not None:
            run.caching.close()
        report = run.watch.report()
        refuse_different_replicas(group, subject.live(), step=ending.steps)

        reporter.stage("exporting")
        with run.frozen.removed():
            result = run.whole()
            if result is not None:
                _export(order, place, run, result, plan, loaded, source, report, ending, task=task)
    reporter.report("done", steps=ending.steps, trained_tokens=ending.tokens, metrics=ending.metrics)


def _export(
    order: WorkOrder,
    place: Workspace,
    run: Run,
    subject: TrackedModel,
    plan: FreezePlan,
    loaded: Readings,
    source: DataSplits,
    report: WitnessReport,
    ending: Ending,
    *,
    task: str,
) -> None:
    """Read what training left, and write the result: the first rank does, for all."""
    if _merges(subject):
        subject, plan, loaded = merging.merge(subject, order.policy, loaded)
        tensors = len(subject.loaded.merged)
        run.reporter.event(f"adapter merged into {tensors} tensors of the base, which are changed")
    trained = subject.read(plan)
    export.write_result(place, subject, trained)
    export.write_observations(place, subject, plan, loaded, trained, report, steps=ending.steps)
    text = card.text(
        job_id=order.job_id,
        task=task,
        spec=order.model,
        data_sha256=sha256_file(place.root / reading.training_path(order.data)),
        policy=plan.policy.to_json(),
        counts=plan.counts(),
        report=report,
        settings=run.settings.to_json(),
        metrics=ending.metrics,
        steps=ending.steps,
        labels=source.labels,
    )
    attention = getattr(getattr(run.model, "config", None), "_attn_implementation", None)
    environment = determinism.environment(run.device, attention=attention, group=run.group)
    write_json(place.files / "determinism.json", determinism.report(environment, seed=order.seed, resumed=run.resumed))
    history = run.progress.history
    export.write_files(
        place,
        subject,
        order.model,
        task=task,
        labels=source.labels,
        history=history,
        card=text,
        tensorboard=run.settings.tensorboard,
    )


def _merges(subject: TrackedModel) -> bool:
    return bool(subject.loaded.adapter and subject.loaded.adapter.merge)


def _stop_if_asked(stop: StopRequest, group: Group) -> None:
    """All ranks at the same place, though a signal may reach one of them later."""
    if group.any(stop.asked):
        raise Stopped(0)


def initialise(order: WorkOrder, place: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Give a torch spec without weights its base file, drawn from the seed."""
    reporter.stage("loading")
    determinism.configure()
    path = place.base / "model.safetensors"
    save_file(loading.initialise(_torch_spec(order), seed=order.seed), path, metadata={"format": "pt"})
    path.chmod(0o644)
    checkpoint.flush(path)


def _torch_spec(order: WorkOrder) -> TorchSpec:
    if not isinstance(order.model, TorchSpec):
        raise ModelError("only a torch architecture can be drawn from a seed", param="model.type")
    return order.model


def describe(order: WorkOrder, place: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Names and shapes of a model's tensors by task, without its weights: out/manifest.json."""
    reporter.stage("loading")
    rows = manifest.describe(order.model, place.base, task=order.task or order.model.task)
    sizes = {str(path.relative_to(place.base)): path.stat().st_size for path in place.base.rglob("*") if path.is_file()}
    write_json(place.manifest, {"tensors": rows, "files": sizes})


STAGES: dict[str, Stage] = {"initialise": initialise, "describe": describe, "train": train}


def _with_checkpoint(diverged: Diverged, place: Workspace) -> Diverged:
    """Where one could go on from."""
    steps = [int(path.name.partition("-")[2]) for path in place.checkpoints.glob("step-*")]
    kept = f"the last checkpoint is that of step {max(steps)}" if steps else "no checkpoint was due before"
    return Diverged(f"{diverged.message}; {kept}", param=diverged.param, errors=diverged.errors)


def _report_failure(reporter: Reporter, error: PermafrostError, rank: int) -> None:
    whose = {"rank": rank} if rank else {}
    reporter.report("failed", code=error.code, message=error.message, param=error.param, errors=error.errors, **whose)
