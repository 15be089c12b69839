"""From a loaded model, a plan and rows to a run that is ready for its next step, the first or one after a resume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from app.errors import DataError, InvalidRequest, ModelError
from app.freeze.plan import FreezePlan
from app.specs.adapters import AdapterSpec, PromptTuningSpec
from worker.protocol import Reporter, WorkOrder, Workspace
from worker.trainer import determinism
from worker.trainer.data.language import LanguageExamples
from worker.trainer.data.reading import DataSplits
from worker.trainer.data.sampler import Sampler
from worker.trainer.data.text import longest, pad_id
from worker.trainer.freeze.apply import freeze
from worker.trainer.freeze.refusals import refuse, refuse_unreached
from worker.trainer.models import loading
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.ranks.refusals import refuse_model, refuse_request, refuse_shards
from worker.trainer.ranks.replicas import common_secret
from worker.trainer.ranks.shards import shard
from worker.trainer.training import caching, compiling, hyperparameters, memory, muon, optimizer, tasks
from worker.trainer.training.hyperparameters import Facts, ResolvedHyperparameters
from worker.trainer.training.isolation import refuse_leaks
from worker.trainer.training.job_witness import JobWitness
from worker.trainer.training.loop import Run, ask_reference, autocast, compute, probe
from worker.trainer.training.objectives import Preference
from worker.trainer.training.patience import Patience
from worker.trainer.training.progress import Progress
from worker.trainer.training.replay import Replay
from worker.trainer.training.saver import Saver, identity
from worker.trainer.training.stop import StopRequest
from worker.trainer.training.tasks import Prepared
from worker.trainer.witness.observe import whole
from worker.trainer.witness.witness import Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a job's run and a replay of it share: all but the model and what hangs on it."""

    order: WorkOrder
    place: Workspace
    plan: FreezePlan
    source: DataSplits
    task: str
    settings: ResolvedHyperparameters
    prepared: Prepared
    device: torch.device
    positions: Sampler
    identity: str
    group: Group = ALONE

    @property
    def total_steps(self) -> int:
        return self.settings.max_steps or self.settings.n_epochs * self.positions.steps_per_epoch


def assemble(
    order: WorkOrder,
    place: Workspace,
    subject: TrackedModel,
    plan: FreezePlan,
    source: DataSplits,
    *,
    task: str,
    reporter: Reporter,
    stop: StopRequest,
    group: Group = ALONE,
) -> Run:
    """Settle, encode, freeze, build the optimizer, refuse, report; then take up what an earlier attempt left."""
    recipe = _recipe(order, place, subject, plan, source, task=task, group=group)
    saver = _saver(recipe, subject, reporter)
    found = saver.find(recipe.device, group)
    run = saver.live = build(recipe, subject, saver, stop=stop)
    if group.size == 1:
        run.watch.explain = Replay(run, partial(rebuild, recipe)).explain
    reporter.report(
        "plan",
        counts=plan.counts(),
        step=found.step if found else 0,
        total_steps=run.total_steps,
        epochs=round(run.total_steps / run.order.steps_per_epoch, 4),
        plan=plan.to_json(),
        warnings=[*plan.warnings, *run.frozen.warnings],
        hyperparameters=recipe.settings.to_json(),
        settled=recipe.settings.shown(order.hyperparameters, _facts(plan, source, subject, recipe.device)).to_json(),
    )
    for note in (*subject.loaded.notes, *recipe.prepared.notes):
        reporter.event(note)
    if found is None:
        run.watch.witness.start()  # a first pass over data may already write
    if isinstance(run.objective, Preference):
        ask_reference(run, run.objective)  # while the model still is the base
    _refuse_few_outputs(_probed(run), source.labels)
    if isinstance(run.training, LanguageExamples) and run.training.packed:
        _refuse_unpackable(run, run.training)
    _compile(recipe, run, subject)  # after the passes that ask whether the data fits the model
    run.caching = caching.begin(_cacheable(recipe, run, subject), place.checkpoints, reporter, stop)
    memory.tidy()
    memory.keep_freed()
    determinism.seed_everything(order.seed, rank=group.rank)
    if found is not None:
        saver.resume(run, found)
    return run


def _probed(run: Run) -> Tensor:
    """The outputs for two examples. ModelError where the model's own code fails on a config that lacks something."""
    try:
        return probe(run)
    except (AttributeError, KeyError, AssertionError) as error:
        message = f"the model cannot be run: {type(error).__name__}: {error}"
        raise ModelError(message, param="model", code="model_cannot_run") from error


def build(recipe: Recipe, subject: TrackedModel, saver: Saver, *, stop: StopRequest) -> Run:
    """The plan made true on this model, and everything that a loop touches. Raises PolicyError where it cannot be."""
    order, plan, settings, device = recipe.order, recipe.plan, recipe.settings, recipe.device
    model, reporter = subject.model, saver.reporter
    if settings.gradient_checkpointing:
        _checkpoint_activations(model)
    if recipe.group.sharded:
        refuse_shards(model, plan)
        shard(model, recipe.group, device)
    else:
        model.to(device)
    frozen = freeze(model, plan)
    built = optimizer.build(
        settings.optimizer,
        frozen.named_parameters(),
        learning_rate=settings.learning_rate,
        inventory=subject.inventory,
        enforce=plan.policy.enforce,
        outer=muon.outer(model) if settings.optimizer.name == "muon" else (),
    )
    frozen.at_step(0, built)
    refuse(model, plan, built)
    refuse_unreached(plan, recipe.total_steps)
    refuse_model(model, plan, recipe.group)
    budget, secret = order.evidence.budget, common_secret(recipe.group)
    witness = Witness(model, plan=plan, budget=budget, secret=secret)
    return Run(
        model=model,
        frozen=frozen,
        optimizer=built,
        objective=tasks.objective(recipe.task, settings),
        training=recipe.prepared.training,
        validation=recipe.prepared.validation,
        lines=recipe.source.training_lines,
        order=recipe.positions,
        settings=settings,
        total_steps=recipe.total_steps,
        device=device,
        reporter=reporter,
        progress=Progress(reporter, recipe.total_steps),
        stop=stop,
        scaler=torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16"),
        watch=JobWitness(witness, plan, reporter, recipe.group),
        save=saver.save,
        judge=saver.judge,
        restore=saver.restore,
        patience=Patience(settings.early_stopping_patience),
        whole=partial(_whole, recipe, subject),
        group=recipe.group,
        divisible=recipe.task != "pairs",
    )


def _whole(recipe: Recipe, subject: TrackedModel) -> TrackedModel | None:
    """The trained model in one piece, on the first rank; None on the others. Shards go into a model loaded anew."""
    group = recipe.group
    if not group.sharded:
        return subject if group.leads else None
    drawn = determinism.random_states()
    fresh = _reloaded(recipe) if group.leads else None
    determinism.restore_random_states(*drawn)  # loading draws from them
    live = fresh.live() if fresh else {}
    with torch.no_grad():
        for name, tensor in subject.live().items():
            gathered = whole(tensor)
            if name in live:
                live[name].copy_(gathered)
    if fresh is not None:
        fresh.pairs = subject.pairs
    return fresh


def _reloaded(recipe: Recipe) -> TrackedModel:
    order = recipe.order
    loaded = loading.load(
        order.model, recipe.place.base, task=recipe.task, labels=recipe.source.labels, seed=order.seed
    )
    if recipe.task in tasks.TEXT:
        tasks.ready_tokenizer(loaded, recipe.source.training)
    return TrackedModel.of(loaded)


def _saver(recipe: Recipe, subject: TrackedModel, reporter: Reporter) -> Saver:
    order = recipe.order
    return Saver(
        recipe.place,
        subject,
        recipe.plan,
        recipe.settings,
        reporter,
        run=recipe.identity,
        job_id=order.job_id,
        seed=order.seed,
    )


def rebuild(recipe: Recipe, reporter: Reporter, stop: StopRequest, *, until: int, cached: bool) -> Run:
    """A second run of the same job, loaded anew, after the newest checkpoint not later than step `until`.

    `cached`: the first one goes on from its prefix's kept results. For a few steps they are not worth keeping.
    """
    order, subject = recipe.order, _reloaded(recipe)
    saver = _saver(recipe, subject, reporter)
    run = saver.live = build(recipe, subject, saver, stop=stop)
    _compile(recipe, run, subject)
    run.caching = caching.settle(_cacheable(recipe, run, subject), reporter) if cached else None
    determinism.seed_everything(order.seed)
    found = saver.newest(until=until)
    if found is not None:
        saver.resume(run, found)
    return run


def _recipe(
    order: WorkOrder,
    place: Workspace,
    subject: TrackedModel,
    plan: FreezePlan,
    source: DataSplits,
    *,
    task: str,
    group: Group,
) -> Recipe:
    device = choose_device(order.device)
    settings = hyperparameters.resolve_auto(order.hyperparameters, _facts(plan, source, subject, device))
    _refuse_split_pairs(task, settings)
    refuse_request(
        group,
        task=task,
        optimizer=settings.optimizer.name,
        precision=settings.precision,
        cached=settings.prefix_cache is True,
        compiled=settings.compile,
    )
    if settings.packing:
        _refuse_packing(task, order.model.adapter)
    _refuse_impatience(plan, source, settings)
    prepared = tasks.prepare(task, source, subject.loaded, asked_length=settings.max_length, packed=settings.packing)
    lengths = prepared.training.lengths if settings.length_bucketing else None
    return Recipe(
        order=order,
        place=place,
        plan=plan,
        source=source,
        task=task,
        settings=settings,
        prepared=prepared,
        device=device,
        positions=Sampler(len(prepared.training), settings.batch_size, order.seed, lengths),
        identity=identity(order, place, subject, plan, settings, task=task),
        group=group,
    )


def _cacheable(recipe: Recipe, run: Run, subject: TrackedModel) -> caching.Asked:
    parts = {"training": run.training} | ({"validation": run.validation} if run.validation is not None else {})
    settings = recipe.settings
    again = run.total_steps > run.order.steps_per_epoch or bool(run.validation is not None and settings.eval_steps)
    return caching.Asked(
        wish=settings.prefix_cache,
        model=run.model,
        plan=recipe.plan,
        live=subject.live(),
        compute=partial(compute, run),
        parts=parts,
        size=settings.micro_batch_size,
        reuse=again,
        device=recipe.device,
        precision=settings.precision,
        compiled=settings.compile,
    )


def _compile(recipe: Recipe, run: Run, subject: TrackedModel) -> None:
    if not recipe.settings.compile:
        return
    compiling.compile_model(run.model, recipe.place.root / "compiled", recipe.device)
    tokenizer = subject.loaded.tokenizer
    if tokenizer is not None:
        limit = longest(tokenizer, run.model, recipe.settings.max_length)
        run.shaped = partial(compiling.filled_up, limit=limit, pad=pad_id(tokenizer))


def choose_device(wanted: str) -> torch.device:
    """`auto` is the first GPU, else the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest(f"the job asks for {wanted}, and this worker has no CUDA device", param="device")
    return device


def _facts(plan: FreezePlan, source: DataSplits, subject: TrackedModel, device: torch.device) -> Facts:
    moving = (*plan.trainable, *plan.split, *plan.scheduled)
    parameters = [each.name for each in moving if each.kind == "parameter"]
    return Facts(
        examples=len(source.training),
        pretrained=subject.loaded.tokenizer is not None or hasattr(subject.model, "config"),
        head_only=bool(parameters) and all(name in subject.loaded.new for name in parameters),
        adapter=bool(subject.loaded.adapter),
        device=device.type,
    )


def _checkpoint_activations(model: nn.Module) -> None:
    """Keep fewer activations and compute them again; the reentrant kind would lose gradients behind a frozen prefix."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        message = f"{type(model).__name__} cannot checkpoint activations; leave gradient_checkpointing out"
        raise InvalidRequest(message, param="hyperparameters.gradient_checkpointing")
    enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _refuse_impatience(plan: FreezePlan, source: DataSplits, settings: ResolvedHyperparameters) -> None:
    """Early stopping needs something to judge by, and goes back to an earlier state."""
    param = "hyperparameters.early_stopping_patience"
    if settings.early_stopping_patience is None:
        return
    if not source.validation:
        raise InvalidRequest("early stopping needs a validation_file, or a validation_fraction", param=param)
    if plan.scheduled:
        message = (
            "early stopping may end in a state from before a scheduled freeze began; leave it out, or freeze "
            f"'{plan.scheduled[0].name}' for the whole run"
        )
        raise InvalidRequest(message, param=param)


def _refuse_packing(task: str, adapter: AdapterSpec | None) -> None:
    """What the model does with a packed row is tried later; these do not come so far."""
    param = "hyperparameters.packing"
    if task != "causal-lm":
        raise InvalidRequest(f"packing is for causal-lm, and the task is {task}", param=param)
    if isinstance(adapter, PromptTuningSpec):
        message = "prompt tuning puts its tokens before a row, not before each example of it; leave packing out"
        raise InvalidRequest(message, param=param)


def _refuse_few_outputs(outputs: torch.Tensor, labels: tuple[str, ...] | None) -> None:
    """A plain torch model has as many outputs as its kwargs say."""
    if labels is not None and outputs.shape[-1] < len(labels):
        message = f"the data has {len(labels)} labels, and the model gives {outputs.shape[-1]} outputs"
        raise DataError(message, param="training_file", code="data_does_not_fit_model")


def _refuse_unpackable(run: Run, examples: LanguageExamples) -> None:
    """By the second example behind the first."""

    def logits(row: dict[str, torch.Tensor]) -> torch.Tensor:
        with autocast(run):
            found: torch.Tensor = run.model(**{name: each.to(run.device) for name, each in row.items()}).logits
        return found

    refuse_leaks(run.model, logits, examples.sequences[0], examples.sequences[min(1, len(examples) - 1)])


def _refuse_split_pairs(task: str, settings: ResolvedHyperparameters) -> None:
    if task == "pairs" and settings.micro_batch_size < settings.batch_size:
        message = "pairs take their negatives from the batch, so it cannot be cut into micro-batches; lower batch_size"
        raise InvalidRequest(message, param="hyperparameters.gradient_accumulation_steps")
