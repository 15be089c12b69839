"""From a loaded model, a plan and rows to a run that is ready for its next step, the first or one after a resume."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.errors import InvalidRequest
from app.evidence.digest import sha256_file
from app.freeze.plan import FreezePlan
from worker.trainer import checkpoint, determinism
from worker.trainer.checkpoint import Checkpoint
from worker.trainer.data.order import Order
from worker.trainer.data.reading import Source
from worker.trainer.freeze.apply import freeze
from worker.trainer.freeze.refusals import refuse
from worker.trainer.models.subject import Subject
from worker.trainer.protocol import Reporter, WorkOrder, Workspace
from worker.trainer.training import hyperparameters, optimizer, tasks
from worker.trainer.training.hyperparameters import Facts, Settings
from worker.trainer.training.loop import Run, ask_reference, probe
from worker.trainer.training.objectives import Metrics, Preference
from worker.trainer.training.progress import Progress
from worker.trainer.training.stop import StopRequest
from worker.trainer.training.watch import Watch
from worker.trainer.witness.witness import Witness


def assemble(
    order: WorkOrder,
    place: Workspace,
    subject: Subject,
    plan: FreezePlan,
    source: Source,
    *,
    task: str,
    reporter: Reporter,
    stop: StopRequest,
) -> Run:
    """Settle, encode, freeze, build the optimizer, refuse, report; then take up what an earlier attempt left."""
    device, model = choose_device(order.device), subject.model
    settings = hyperparameters.settle(order.hyperparameters, _facts(plan, source, subject, device))
    _refuse_split_pairs(task, settings)
    prepared = tasks.prepare(task, source, subject.loaded, asked_length=settings.max_length)
    saver = Saver(
        place, subject, plan, settings, reporter, run=_identity(order, place, subject, plan, settings, task=task)
    )
    found = saver.find(device)

    if settings.gradient_checkpointing:
        _checkpoint_activations(model)
    model.to(device)
    frozen = freeze(model, plan)
    built = optimizer.build(
        settings.optimizer,
        frozen.named_parameters(),
        learning_rate=settings.learning_rate,
        inventory=subject.inventory,
        enforce=plan.policy.enforce,
    )
    frozen.at_step(0, built)
    refuse(model, plan, built)

    objective = tasks.objective(task, settings)
    lengths = prepared.training.lengths if settings.length_bucketing else None
    data_order = Order(len(prepared.training), settings.batch_size, order.seed, lengths)
    budget = float(order.evidence.get("overhead_budget", 0.01))
    total = settings.max_steps or settings.n_epochs * data_order.steps_per_epoch
    run = Run(
        model=model,
        frozen=frozen,
        optimizer=built,
        objective=objective,
        training=prepared.training,
        validation=prepared.validation,
        order=data_order,
        settings=settings,
        total_steps=total,
        device=device,
        reporter=reporter,
        progress=Progress(reporter, total),
        stop=stop,
        scaler=torch.amp.GradScaler(device.type, enabled=settings.precision == "float16"),
        watch=Watch(Witness(model, plan=plan, budget=budget), plan, reporter),
        save=saver.save,
    )
    saver.live = run
    reporter.report(
        "plan",
        counts=plan.counts(),
        total_steps=total,
        epochs=round(total / data_order.steps_per_epoch, 4),
        plan=plan.to_json(),
        warnings=[*plan.warnings, *frozen.warnings],
        hyperparameters=settings.to_json(),
    )
    for note in (*subject.loaded.notes, *prepared.notes):
        reporter.event(note)
    if isinstance(objective, Preference):
        ask_reference(run, objective)  # while the model still is the base
    probe(run)
    determinism.seed_everything(order.seed)
    if found is not None:
        saver.resume(run, found)
    return run


def choose_device(wanted: str) -> torch.device:
    """`auto` is the first GPU, else the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest(f"the job asks for {wanted}, and this worker has no CUDA device", param="device")
    return device


@dataclass(slots=True)
class Saver:
    """Checkpoints of one run: what of the model to save, under which identity, and the way back."""

    place: Workspace
    subject: Subject
    plan: FreezePlan
    settings: Settings
    reporter: Reporter
    run: str
    live: Run | None = None

    def save(self, step: int, metrics: Metrics) -> None:
        """Write the state after `step`. A disk that is full costs the checkpoint, not the run."""
        run = self.live
        assert run is not None
        run.watch.before_checkpoint()
        state = {
            "scaler": run.scaler.state_dict(),
            "history": run.progress.history,
            "seconds": run.seconds_before + run.progress.seconds(),
            "witness": run.watch.witness.state_dict(),
            "environment": determinism.environment(run.device),
        }
        try:
            path = checkpoint.write(
                self.place.checkpoints,
                step=step,
                run=self.run,
                tensors=self._moving(),
                optimizer=run.optimizer,
                state=state,
                keep=self.settings.keep_checkpoints,
            )
        except OSError as error:
            self.reporter.event(f"no checkpoint after step {step}: {error}", level="warn", step=step)
            return
        self.reporter.report(
            "checkpoint", step=step, path=f"checkpoints/{path.name}", metrics={"step": step, **metrics}
        )

    def find(self, device: torch.device) -> Checkpoint | None:
        """The checkpoint to go on from; its thread count is set, since another one would give other bits."""
        found = checkpoint.newest(self.place.checkpoints, run=self.run, on_damage=self._tell_damage)
        if found is None:
            return None
        before = found.state["environment"]
        torch.set_num_threads(int(before["threads"]))
        now = determinism.environment(device)
        self.reporter.event(f"goes on after step {found.step}", step=found.step)
        if now != before:
            other = sorted(name for name in now if now[name] != before.get(name))
            message = f"resumed where {', '.join(other)} differ from before: the result may differ in its last bits"
            self.reporter.event(message, level="warn", before=before, now=now)
        return found

    def resume(self, run: Run, found: Checkpoint) -> None:
        """Make the run what it was after the checkpoint's step; generators last."""
        checkpoint.restore_tensors(found, self._moving())
        run.frozen.at_step(found.step, run.optimizer)
        found.restore_optimizer(run.optimizer)
        run.scaler.load_state_dict(found.state["scaler"])
        run.watch.witness.load_state_dict(found.state["witness"])
        run.progress.history[:] = found.state["history"]
        run.seconds_before = float(found.state["seconds"])
        run.done = found.step
        found.restore_random_states()

    def _moving(self) -> dict[str, Tensor]:
        """Everything that training may move; under an audit, where anything may, every tensor."""
        policy = self.plan.policy
        live = self.subject.live()
        if not policy.enforce or policy.on_violation == "continue":
            return live
        still = {each.name for each in self.plan.frozen}
        return {name: tensor for name, tensor in live.items() if name not in still}

    def _tell_damage(self, path: Path, why: str) -> None:
        self.reporter.event(f"checkpoint {path.name} is not used: {why}", level="warn")


def _facts(plan: FreezePlan, source: Source, subject: Subject, device: torch.device) -> Facts:
    moving = (*plan.trainable, *plan.split, *plan.scheduled)
    parameters = [each.name for each in moving if each.kind == "parameter"]
    return Facts(
        examples=len(source.training),
        pretrained=subject.loaded.tokenizer is not None or hasattr(subject.model, "config"),
        head_only=bool(parameters) and all(name in subject.loaded.new for name in parameters),
        adapter=subject.loaded.adapter,
        device=device.type,
    )


def _checkpoint_activations(model: nn.Module) -> None:
    """Keep fewer activations and compute them again; the reentrant kind would lose gradients behind a frozen prefix."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        message = f"{type(model).__name__} cannot checkpoint activations; leave gradient_checkpointing out"
        raise InvalidRequest(message, param="hyperparameters.gradient_checkpointing")
    enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _refuse_split_pairs(task: str, settings: Settings) -> None:
    if task == "pairs" and settings.micro_batch_size < settings.batch_size:
        message = "pairs take their negatives from the batch, so it cannot be cut into micro-batches; lower batch_size"
        raise InvalidRequest(message, param="hyperparameters.gradient_accumulation_steps")


def _identity(
    order: WorkOrder, place: Workspace, subject: Subject, plan: FreezePlan, settings: Settings, *, task: str
) -> str:
    """What two attempts must share for one to go on with the other's checkpoint."""
    timing = {"save_interval", "save_seconds", "keep_checkpoints", "max_run_seconds"}  # change no bit of the result
    files = {key: order.data.get(key) for key in ("training", "validation")}
    content: dict[str, Any] = {
        "task": task,
        "model": order.model,
        "base": sorted((name, reading.sha256) for name, reading in subject.base.items()),
        "policy": plan.policy.to_json(),
        "settings": {name: value for name, value in settings.to_json().items() if name not in timing},
        "seed": order.seed,
        "data": {key: sha256_file(place.root / path) for key, path in files.items() if path},
        "columns": [order.data.get("features"), order.data.get("target")],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
