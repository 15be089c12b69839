"""From a work order, a loaded model and its plan to a run that is ready for its next step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from app.errors import InvalidRequest
from app.freeze.plan import FreezePlan
from app.freeze.schedules import refuse_unreached
from app.specs.rules import TOKENIZED
from worker.protocol import Reporter, WorkOrder, Workspace
from worker.trainer import determinism
from worker.trainer.data.reading import DataSplits
from worker.trainer.data.text import longest, pad_id
from worker.trainer.freeze import fixed
from worker.trainer.freeze.apply import freeze
from worker.trainer.freeze.quantised_parts import follow
from worker.trainer.freeze.refusals import refuse
from worker.trainer.models import loading, merging, quantised
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.padding.removal import Padding
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.ranks.refusals import refuse_model, refuse_shards
from worker.trainer.ranks.replicas import common_secret
from worker.trainer.ranks.shards import shard
from worker.trainer.training import compiling, memory, muon, optimizer, padding_free, prefix_cache, tasks
from worker.trainer.training.checkpoints import Checkpoints
from worker.trainer.training.evaluation import fill_in_reference
from worker.trainer.training.job import TrainingJob, resolve_job
from worker.trainer.training.job_witness import JobWitness
from worker.trainer.training.loop import Run
from worker.trainer.training.master_weights import HALF, MasterWeights
from worker.trainer.training.objectives import Preference
from worker.trainer.training.passes import Passes
from worker.trainer.training.patience import Patience
from worker.trainer.training.prefix_request import PrefixRequest
from worker.trainer.training.progress import TrainingProgress
from worker.trainer.training.replay import Replay, bytes_of_second_run
from worker.trainer.training.state import TrainingState
from worker.trainer.training.stop import StopRequest
from worker.trainer.training.trial import refuse_misfits
from worker.trainer.witness.observe import whole
from worker.trainer.witness.witness import Witness


def assemble(
    order: WorkOrder,
    workspace: Workspace,
    tracked: TrackedModel,
    plan: FreezePlan,
    splits: DataSplits,
    *,
    task: str,
    reporter: Reporter,
    stop: StopRequest,
    group: Group = ALONE,
) -> Run:
    """Resolve, freeze, build, report, try, and resume from an earlier attempt's checkpoint if there is one.

    Raises what `resolve_job`, `build` and `refuse_misfits` raise.
    """
    job = resolve_job(order, workspace, tracked, plan, splits, task=task, group=group)
    checkpoints = Checkpoints(job, tracked, reporter)
    saved = checkpoints.find()
    run = build(job, tracked, checkpoints, reporter=reporter, stop=stop)
    _report_plan(run, tracked, step=saved.step if saved else 0)
    _report_dropout(run)

    if saved is None:
        run.witness.witness.start()  # before the first pass, which may already write
    objective = run.passes.objective
    if isinstance(objective, Preference):
        fill_in_reference(run.passes, objective)  # while the model still is the base
    refuse_misfits(run.passes)
    _compile(run, tracked)  # after the passes that are made once
    run.passes.prefix = prefix_cache.begin(_prefix_request(run, tracked), workspace.checkpoints, reporter, stop)
    before = None if saved is None else saved.state.get("padding", "kept")  # it was, when there was no choice
    run.passes.removal = padding_free.begin(run.passes, reporter, earlier=before)
    run.state.padding = run.passes.removal.way
    if group.size == 1:
        cached = run.passes.prefix is not None
        again = partial(rebuild, job, stop=stop, cached=cached, padding=run.state.padding)
        run.witness.explain = Replay(again, stop, job.device, bytes_of_second_run(run.state)).explain

    memory.tidy()
    if quantised.package_of(tracked.model) is None:
        memory.keep_freed()
    else:
        memory.give_back_blocks()
    determinism.seed_everything(order.seed, rank=group.rank)
    if saved is not None:
        checkpoints.resume(run.state, saved, witness=run.witness.witness, progress=run.progress)
    _report_masters(run)
    return run


def build(
    job: TrainingJob, tracked: TrackedModel, checkpoints: Checkpoints, *, reporter: Reporter, stop: StopRequest
) -> Run:
    """Apply the plan to the model, and make all that the loop needs. PolicyError where the plan cannot be applied."""
    plan, settings, model = job.plan, job.settings, tracked.model
    state = _state(job, tracked)
    refuse(model, plan, state.optimizer)
    refuse_unreached(plan, job.total_steps)
    refuse_model(model, plan, job.group)

    witness = Witness(model, plan=plan, budget=job.order.evidence.budget, secret=common_secret(job.group))
    objective = tasks.objective(job.task, settings, head=tracked.loaded.sentence)
    return Run(
        job=job,
        state=state,
        passes=Passes(job=job, state=state, objective=objective, reporter=reporter),
        witness=JobWitness(witness, plan, reporter, job.group),
        checkpoints=checkpoints,
        progress=TrainingProgress(reporter, job.total_steps, witness=witness),
        reporter=reporter,
        stop=stop,
    )


def rebuild(
    job: TrainingJob, reporter: Reporter, *, stop: StopRequest, until: int, cached: bool, padding: Padding = "kept"
) -> Run:
    """A second run of the same job, loaded anew and restored to its newest checkpoint not later than step `until`.

    `cached`: the first run serves its prefix's results. The second one computes them for each batch, since for a few
    steps it is not worth keeping them.
    """
    tracked = _reloaded(job)
    checkpoints = Checkpoints(job, tracked, reporter)
    run = build(job, tracked, checkpoints, reporter=reporter, stop=stop)
    _compile(run, tracked)
    run.passes.prefix = prefix_cache.prepare(_prefix_request(run, tracked), reporter) if cached else None
    run.passes.removal = padding_free.again(run.passes, padding)
    determinism.seed_everything(job.order.seed)
    found = checkpoints.newest(until=until)
    if found is not None:
        checkpoints.resume(run.state, found, witness=run.witness.witness, progress=run.progress)
    return run


def whole_model(job: TrainingJob, tracked: TrackedModel) -> TrackedModel | None:
    """The trained model in one piece, on the first rank; None on the others. All ranks must call this together.

    Shards are gathered into a model that is loaded anew.
    """
    group = job.group
    if not group.sharded:
        return tracked if group.leads else None
    random = determinism.random_states()
    reloaded = _reloaded(job) if group.leads else None
    determinism.restore_random_states(*random)  # loading draws from the generators
    live = reloaded.live() if reloaded else {}
    with torch.no_grad():
        for name, tensor in tracked.live().items():
            gathered = whole(tensor)
            if name in live:
                live[name].copy_(gathered)
    if reloaded is not None:
        reloaded.pairs = tracked.pairs
    return reloaded


def _state(job: TrainingJob, tracked: TrackedModel) -> TrainingState:
    """The model on its device with the plan applied, and an optimizer over what trains."""
    settings, model = job.settings, tracked.model
    if settings.gradient_checkpointing:
        _checkpoint_activations(model)
    if job.group.sharded:
        refuse_shards(model, job.plan)
        shard(model, job.group, job.device)
    else:
        model.to(job.device)
        follow(model)
    frozen = freeze(model, job.plan, dropout=settings.frozen_dropout)
    built = optimizer.build(
        settings.optimizer,
        frozen.named_parameters(),
        learning_rate=settings.learning_rate,
        inventory=tracked.inventory,
        enforce=job.plan.policy.enforce,
        outer=muon.outer(model) if settings.optimizer.name == "muon" else (),
    )
    frozen.at_step(0, built)
    return TrainingState(
        model=model,
        frozen=frozen,
        optimizer=built,
        scaler=torch.amp.GradScaler(job.device.type, enabled=settings.precision == "fp16"),
        masters=MasterWeights(frozen.named_parameters() if _needs_masters(job) else ()),
        patience=Patience(settings.early_stopping_patience),
        micro_batch_size=settings.micro_batch_size,
    )


def _needs_masters(job: TrainingJob) -> bool:
    """Whether half-precision weights get master copies. An audit trains as a loop written by hand would."""
    return job.settings.master_weights and job.plan.policy.enforce and not job.group.sharded


def _report_plan(run: Run, tracked: TrackedModel, *, step: int) -> None:
    job, plan = run.job, run.job.plan
    run.reporter.report(
        "plan",
        counts=_result_plan(job, tracked).counts(),
        step=step,
        total_steps=job.total_steps,
        epochs=round(job.total_steps / job.sampler.steps_per_epoch, 4),
        plan=plan.to_json(),
        warnings=[*plan.warnings, *run.state.frozen.warnings],
        hyperparameters=job.settings.to_json(),
        settled=job.settings.shown(job.order.hyperparameters, job.facts).to_json(),
    )
    for note in (*tracked.loaded.notes, *job.data.notes):
        run.reporter.event(note)
    for warning in job.data.warnings:
        run.reporter.event(warning, level="warn")


def _report_dropout(run: Run) -> None:
    """Whether dropout acts in frozen modules; no event in jobs from before there was a choice."""
    if run.state.frozen.fixed or run.job.order.hyperparameters.frozen_dropout:
        run.reporter.event(fixed.sentence(frozen_dropout=run.job.settings.frozen_dropout))


def _report_masters(run: Run) -> None:
    """Whether half-precision weights have master copies; an event only where something trains in half precision."""
    half = [parameter for parameter in run.state.parameters if parameter.dtype in HALF]
    copies = run.state.masters.copies
    if copies:
        nbytes = sum(copy.nbytes for copy in copies.values())
        message = f"{len(copies)} half-precision tensors train through fp32 master copies ({nbytes:,} bytes)"
        run.reporter.event(message, tensors=len(copies), bytes=nbytes)
    elif half:
        message = f"{len(half)} tensors train in half precision without fp32 copies: small updates may round to nothing"
        run.reporter.event(message, level="warn", tensors=len(half))


def _result_plan(job: TrainingJob, tracked: TrackedModel) -> FreezePlan:
    """The plan of the result's tensors: of a merged adapter the merged model's, in which its targets are changed."""
    adapter = tracked.loaded.adapter
    return merging.plan_of(tracked.loaded, job.order.policy) if adapter and adapter.merge else job.plan


def _prefix_request(run: Run, tracked: TrackedModel) -> PrefixRequest:
    job, settings = run.job, run.job.settings
    parts = {"training": job.training} | ({"validation": job.validation} if job.validation is not None else {})
    several_epochs = job.total_steps > job.sampler.steps_per_epoch
    return PrefixRequest(
        setting=settings.prefix_cache,
        model=run.state.model,
        plan=job.plan,
        live=tracked.live(),
        compute=run.passes.compute_padded,
        parts=parts,
        size=settings.micro_batch_size,
        passes=job.total_steps * -(-settings.batch_size // settings.micro_batch_size),
        reuse=several_epochs or bool(job.validation is not None and settings.eval_steps),
        device=job.device,
        precision=settings.precision,
        compiled=settings.compile,
        fixed=not settings.frozen_dropout,
        shared=job.workspace.prefix_cache if job.order.prefix_room else None,
        room=job.order.prefix_room,
    )


def _compile(run: Run, tracked: TrackedModel) -> None:
    settings, model = run.job.settings, run.state.model
    if not settings.compile:
        return
    compiling.compile_model(model, run.job.workspace.root / "compiled", run.job.device)
    tokenizer = tracked.loaded.tokenizer
    if tokenizer is not None:
        limit = longest(tokenizer, model, settings.max_length)
        run.passes.shaped = partial(compiling.filled_up, limit=limit, pad=pad_id(tokenizer))


def _checkpoint_activations(model: nn.Module) -> None:
    """Keep fewer activations and recompute them. Not reentrantly, which would lose gradients behind a frozen prefix."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        message = f"{type(model).__name__} cannot checkpoint activations; leave gradient_checkpointing out"
        raise InvalidRequest(message, param="hyperparameters.gradient_checkpointing")
    enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _reloaded(job: TrainingJob) -> TrackedModel:
    order = job.order
    loaded = loading.load(order.model, job.workspace.base, task=job.task, labels=job.splits.labels, seed=order.seed)
    if job.task in TOKENIZED:
        tasks.ready_tokenizer(loaded, job.splits.training, task=job.task)
    return TrackedModel.of(loaded)
