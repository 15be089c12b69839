"""Runs one attempt at one job in a process of its own: from the work order of a workspace to its out/ folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from app.errors import ModelError
from app.evidence.format.digest import sha256_file
from app.freeze.plan import FreezePlan
from app.specs.models import TorchSpec, TransformersSpec
from worker.protocol import EXIT_DONE, Reporter, WorkOrder, Workspace, write_json
from worker.trainer import checkpoint, determinism, export, foreseen
from worker.trainer.data import reading
from worker.trainer.data.reading import DataSplits
from worker.trainer.freeze.quantised_parts import decoded_weights
from worker.trainer.models import card, loading, manifest, merging, quantised
from worker.trainer.models.tracked import Readings, TrackedModel
from worker.trainer.outcome import exit_codes, rank_of_process
from worker.trainer.own_word import own_word
from worker.trainer.ranks.elastic import launch_on_machines
from worker.trainer.ranks.group import Group, joined
from worker.trainer.ranks.launch import launch
from worker.trainer.ranks.replicas import refuse_different_replicas
from worker.trainer.readonly.weights import read_only
from worker.trainer.training import loop, tasks
from worker.trainer.training.divergence import Diverged
from worker.trainer.training.loop import Ending, Run
from worker.trainer.training.memory_parts import memory_parts
from worker.trainer.training.setup import assemble, whole_model
from worker.trainer.training.stop import StopRequest, TrainingStopped
from worker.trainer.witness.report import WitnessReport

Stage = Callable[[WorkOrder, Workspace, Reporter, StopRequest], None]


def run(folder: Path) -> None:
    """Runs the stage that the work order names, and ends the process.

    SystemExit has 0 when done, 1 after a "failed" report, and the other exit codes of `worker.protocol`.
    """
    workspace = Workspace(folder).create()
    rank = rank_of_process()
    with Reporter(workspace.reports) as reporter, exit_codes(reporter, rank=rank):
        order = WorkOrder.load(workspace.root)

    if order.stage == "train" and "RANK" not in os.environ:
        if order.machines > 1:
            raise SystemExit(launch_on_machines(workspace, order, run))
        if order.devices > 1:
            raise SystemExit(launch(workspace, order.devices, run))
    silent = Reporter(Path(os.devnull), aloud=False)  # for all ranks but the first

    with Reporter(workspace.reports) as reporter, silent, StopRequest() as stop, exit_codes(reporter, rank=rank):
        STAGES[order.stage](order, workspace, silent if rank else reporter, stop)
    raise SystemExit(EXIT_DONE)


def train(order: WorkOrder, workspace: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Loads the model, plans the freeze, reads the weights, trains, reads them again, and exports the result."""
    reporter.stage("loading")
    determinism.configure()
    with joined(order) as group:
        task = tasks.name_of(order.model, order.task, workspace=workspace.root, data=order.data)
        source = tasks.read(order, workspace, task=task)
        tracked = TrackedModel.of(
            loading.load(order.model, workspace.base, task=task, labels=source.labels, seed=order.seed)
        )
        _stop_if_asked(stop, group)

        if _merges(tracked):
            merging.plan_of(tracked.loaded, order.policy)
        plan = tracked.plan(order.policy)
        loaded = tracked.read_loaded(plan)
        if not _merges(tracked):
            foreseen.refuse_unfollowed(workspace, tracked, plan, loaded)
        _report_left_out(tracked, reporter)
        refuse_different_replicas(group, tracked.live(), step=0)
        if group.leads:
            export.write_initial(workspace, tracked)
        run = assemble(order, workspace, tracked, plan, source, task=task, reporter=reporter, stop=stop, group=group)
        form = whole_model(run.job, tracked)
        if form is not None:
            export.write_form(workspace, form, order.model, task=task, labels=source.labels)
            if not _merges(tracked):
                foreseen.refuse_rejected(workspace, tracked, plan, loaded)
        _stop_if_asked(stop, group)

        reporter.stage("training")
        with run.witness.witness:
            try:
                with run.checkpoints.writer, read_only(run.state, plan, run.witness.witness, reporter):
                    ending = loop.train(run)
            except Diverged as diverged:
                raise _explained(diverged, workspace) from None
        reporter.report("memory", **memory_parts(run.state, run.job.device))
        if run.passes.prefix is not None:
            run.passes.prefix.close()
        report = run.witness.report()
        run.witness.report_unchanged(report)
        refuse_different_replicas(group, tracked.live(), step=ending.steps)

        reporter.stage("exporting")
        with run.state.frozen.removed():
            result = whole_model(run.job, tracked)
            if result is not None:
                _export(
                    order, workspace, run, result, plan, loaded, source=source, report=report, ending=ending, task=task
                )
    word = own_word(run, ending)
    reporter.report("done", steps=ending.steps, trained_tokens=ending.tokens, metrics=ending.metrics, recipe=word)


def _export(
    order: WorkOrder,
    workspace: Workspace,
    run: Run,
    tracked: TrackedModel,
    plan: FreezePlan,
    loaded: Readings,
    *,
    source: DataSplits,
    report: WitnessReport,
    ending: Ending,
    task: str,
) -> None:
    """Reads the trained weights and writes the result, on the first rank only."""
    if _merges(tracked):
        tracked, plan, loaded = merging.merge(tracked, order.policy, loaded)
        tensors = len(tracked.loaded.merged)
        run.reporter.event(f"adapter merged into {tensors} tensors of the base, which are changed")

    trained = tracked.read(plan)
    export.write_result(workspace, tracked, trained)
    export.write_observations(workspace, tracked, plan, loaded, trained, report, steps=ending.steps)

    decoded = sum(len(decoded_weights(module)) for module in run.state.model.modules())
    text = card.text(
        job_id=order.job_id,
        task=task,
        spec=order.model,
        data_sha256=sha256_file(workspace.root / reading.training_path(order.data)),
        policy=plan.policy.to_json(),
        counts=plan.counts() | {"scheduled": {"tensors": len(plan.scheduled)}, "decoded": {"tensors": decoded}},
        report=report,
        settings=run.job.settings.to_json(),
        metrics=ending.metrics,
        steps=ending.steps,
        labels=source.labels,
    )

    attention = getattr(getattr(run.state.model, "config", None), "_attn_implementation", None)
    environment = determinism.environment(
        run.job.device, attention=attention, group=run.job.group, quantiser=quantised.package_of(run.state.model)
    )
    settings, resumed = run.job.settings, run.state.resumed
    reproducible = determinism.report(
        environment, seed=order.seed, resumed=resumed, frozen_dropout=settings.frozen_dropout
    )
    write_json(workspace.files / "determinism.json", reproducible)

    history = run.progress.history
    export.write_files(
        workspace,
        tracked,
        order.model,
        task=task,
        labels=source.labels,
        history=history,
        card=text,
        tensorboard=run.job.settings.tensorboard,
    )


def _report_left_out(tracked: TrackedModel, reporter: Reporter) -> None:
    names = tracked.left_out()
    if names:
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        reporter.event(f"in the base, not in this model: {', '.join(names[:20])}{more}; the result does not have them")


def _merges(tracked: TrackedModel) -> bool:
    return bool(tracked.loaded.adapter and tracked.loaded.adapter.merge)


def _stop_if_asked(stop: StopRequest, group: Group) -> None:
    """Raises TrainingStopped on all ranks together, though the signal may reach some of them later."""
    if group.any(stop.requested):
        raise TrainingStopped(0)


def initialise(order: WorkOrder, workspace: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Writes the base file of a torch spec without weights: initial weights from the seed."""
    reporter.stage("loading")
    determinism.configure()
    path = workspace.base / "model.safetensors"
    save_file(loading.initialise(_torch_spec(order), seed=order.seed), path, metadata={"format": "pt"})
    path.chmod(0o644)
    checkpoint.flush(path)


def _torch_spec(order: WorkOrder) -> TorchSpec:
    if not isinstance(order.model, TorchSpec):
        raise ModelError("only a torch architecture can be drawn from a seed", param="model.type")
    return order.model


def describe(order: WorkOrder, workspace: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Writes out/manifest.json: names and shapes of the model's tensors by task."""
    reporter.stage("loading")
    rows = manifest.describe(order.model, workspace.base, task=order.task or order.model.task)
    sizes = {
        str(path.relative_to(workspace.base)): path.stat().st_size
        for path in workspace.base.rglob("*")
        if path.is_file()
    }
    write_json(workspace.manifest, {"tensors": rows, "files": sizes}, indent=None)


def make(order: WorkOrder, workspace: Workspace, reporter: Reporter, stop: StopRequest) -> None:
    """Writes out/made.json: digests of what loading makes of stored tensors, from the base alone.

    It runs before the job's data is there: what the trainer reports of these weights is compared with it.
    """
    reporter.stage("loading")
    determinism.configure()
    task = order.task or order.model.task or ""
    tracked = TrackedModel.of(loading.load(_with_fresh_adapter(order), workspace.base, task=task, labels=None, seed=0))
    write_json(workspace.made, tracked.digests_of_made(), indent=None)


def _with_fresh_adapter(order: WorkOrder) -> TransformersSpec:
    if not isinstance(order.model, TransformersSpec) or order.model.adapter is None:
        raise ModelError("only the base of an adapter, in the layout of transformers, is made anew", param="model")
    return replace(order.model, adapter=replace(order.model.adapter, start=None))


STAGES: dict[str, Stage] = {"initialise": initialise, "describe": describe, "make": make, "train": train}


def _explained(diverged: Diverged, workspace: Workspace) -> Diverged | ModelError:
    """The error with the step of the last checkpoint in its message; another one where the base itself is why."""
    broken = loading.name_not_finite(workspace.base)
    if broken is not None:
        name, what = broken
        message = f"the base's files hold {what}, in {name!r} among others; with it, {diverged.message}"
        return ModelError(message, param="model", code="nan_in_weights")
    steps = [int(path.name.partition("-")[2]) for path in workspace.checkpoints.glob("step-*")]
    last_checkpoint = f"the last checkpoint is that of step {max(steps)}" if steps else "no checkpoint was due before"
    return Diverged(f"{diverged.message}; {last_checkpoint}", param=diverged.param, errors=diverged.errors)
