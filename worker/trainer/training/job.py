"""What is fixed for a run: resolved once from the work order, equal in every attempt and in a replay of some steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from app.errors import InvalidRequest
from app.freeze.plan import FreezePlan
from app.freeze.schedules import refuse_stopping_early
from app.specs.rules import (
    CONTRASTIVE,
    refuse_batch_of_one,
    refuse_blind_stopping,
    refuse_small_micro_batch,
    refuse_task_conflicts,
)
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data.batch import Examples
from worker.trainer.data.reading import DataSplits
from worker.trainer.data.sampler import Sampler
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.ranks.refusals import refuse_request
from worker.trainer.training import hyperparameters, tasks
from worker.trainer.training.hyperparameters import Facts, ResolvedHyperparameters
from worker.trainer.training.identity import identity
from worker.trainer.training.tasks import EncodedData


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A work order with its plan, hyperparameters, encoded data and the order of its examples."""

    order: WorkOrder
    workspace: Workspace
    plan: FreezePlan
    splits: DataSplits
    task: str
    settings: ResolvedHyperparameters
    facts: Facts
    data: EncodedData
    sampler: Sampler
    total_steps: int
    device: torch.device
    identity: str
    group: Group = ALONE

    @property
    def training(self) -> Examples:
        return self.data.training

    @property
    def validation(self) -> Examples | None:
        return self.data.validation

    @property
    def lines(self) -> Sequence[int]:
        """The line of the training file that each training example came from."""
        return self.splits.training_lines

    @property
    def divisible(self) -> bool:
        """Whether a batch may be split into smaller micro-batches."""
        return self.task not in CONTRASTIVE

    def at_epoch_end(self, step: int) -> bool:
        return step % self.sampler.steps_per_epoch == 0


def resolve_job(
    order: WorkOrder,
    workspace: Workspace,
    tracked: TrackedModel,
    plan: FreezePlan,
    splits: DataSplits,
    *,
    task: str,
    group: Group,
) -> TrainingJob:
    """Decide every `auto` and encode the data. InvalidRequest for hyperparameters that do not fit together."""
    device = choose_device(order.device)
    facts = _facts(plan, splits, tracked, device)
    settings = hyperparameters.resolve_auto(order.hyperparameters, facts)
    if not plan.policy.enforce:
        settings = replace(settings, frozen_dropout=True)  # in an audit nothing that is declared is applied
    _refuse_settings(settings, order=order, task=task, plan=plan, splits=splits)
    refuse_request(
        group,
        task=task,
        optimizer=settings.optimizer.name,
        precision=settings.precision,
        cached=settings.prefix_cache is True,
        compiled=settings.compile,
    )

    data = tasks.encode(task, splits, tracked.loaded, asked_length=settings.max_length, packed=settings.packing)
    lengths = data.training.lengths if settings.length_bucketing else None
    sampler = Sampler(len(data.training), settings.batch_size, order.seed, lengths)
    return TrainingJob(
        order=order,
        workspace=workspace,
        plan=plan,
        splits=splits,
        task=task,
        settings=settings,
        facts=facts,
        data=data,
        sampler=sampler,
        total_steps=settings.max_steps or settings.n_epochs * sampler.steps_per_epoch,
        device=device,
        identity=identity(order, workspace, tracked, plan, settings, task=task),
        group=group,
    )


def choose_device(name: str) -> torch.device:
    """The device of that name; for "auto" the first GPU, or the CPU. InvalidRequest if there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest(f"the job asks for {name}, and this worker has no CUDA device", param="device")
    return device


def _facts(plan: FreezePlan, splits: DataSplits, tracked: TrackedModel, device: torch.device) -> Facts:
    moving = (*plan.trainable, *plan.split, *plan.scheduled)
    parameters = [decision.name for decision in moving if decision.kind == "parameter"]
    return Facts(
        examples=len(splits.training),
        pretrained=tracked.loaded.tokenizer is not None or hasattr(tracked.model, "config"),
        head_only=bool(parameters) and all(name in tracked.loaded.new for name in parameters),
        adapter=bool(tracked.loaded.adapter),
        device=device.type,
        mixed=tracked.loaded.mixed,
    )


def _refuse_settings(
    settings: ResolvedHyperparameters, *, order: WorkOrder, task: str, plan: FreezePlan, splits: DataSplits
) -> None:
    validated = bool(splits.validation)
    refuse_task_conflicts(order.hyperparameters, task, adapter=order.model.adapter, validated=validated)
    refuse_batch_of_one(task, settings.batch_size)
    refuse_small_micro_batch(task, micro_batch_size=settings.micro_batch_size, batch_size=settings.batch_size)

    refuse_blind_stopping(settings.early_stopping_patience, validated)  # a fraction may have come to no example
    refuse_stopping_early(plan, settings.early_stopping_patience)
