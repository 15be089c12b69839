"""Refuses requests whose parts do not fit together, as far as that is known before a worker has the model.

The trainer refuses by the same rules (`app.specs.fit`, `app.specs.rules`, `app.freeze.schedules`).
"""

from typing import TypeGuard

from app.errors import DataError, InvalidRequest
from app.files import formats
from app.files.formats import Summary
from app.files.labels import kept_map
from app.freeze.plan import FreezePlan
from app.freeze.schedules import refuse_stopping_early, refuse_unreached
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.requests.base_head import label_map
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.examples import RequestExamples, refuse_unknown_labels
from app.jobs.requests.length import length_of
from app.models import manifest
from app.models.catalog import ChosenModel
from app.models.manifest import Manifest
from app.specs import auto
from app.specs.fit import (
    refuse_devices,
    refuse_few_outputs,
    refuse_large_micro_batch,
    refuse_more_labels,
    refuse_regression_labels,
)
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import ModelSpec, TorchSpec, TransformersSpec


def refuse_data_misfits(context: SubmissionContext, model: ChosenModel, examples: RequestExamples) -> None:
    """Refuses labels and widths of the files that the model has no outputs or inputs for. InvalidRequest, DataError."""
    training, validation = examples.summaries
    refuse_regression_labels(examples.task, model.spec.num_labels)
    if training is None:
        return

    if validation is not None:
        formats.refuse_other_width(training, validation)
    if training.labels is not None:
        labels = head_labels(context, model, training.labels)
        if labels is not None:
            refuse_more_labels(len(labels), model.spec.num_labels)
            refuse_unknown_labels(context, examples, labels)
    if _is_affine(model.spec):
        _refuse_other_sizes(model.spec, training)


def refuse_run_misfits(
    hyperparameters: Hyperparameters, model: ChosenModel, examples: RequestExamples, plan: FreezePlan | None
) -> None:
    """Refuses hyperparameters that the model cannot train with, and schedules that the run does not reach."""
    length = length_of(examples, hyperparameters)
    _refuse_large_micro_batch(hyperparameters, length.examples if length else None)
    if plan is not None:
        refuse_stopping_early(plan, hyperparameters.early_stopping_patience)
        if length is not None and not hyperparameters.packing:  # packed examples make fewer steps
            refuse_unreached(plan, length.steps)

    if hyperparameters.gradient_checkpointing and _is_affine(model.spec):
        message = "Affine cannot checkpoint activations; leave gradient_checkpointing out"
        raise InvalidRequest(message, param="hyperparameters.gradient_checkpointing")
    if hyperparameters.optimizer is not None and hyperparameters.optimizer.name == "muon":
        _refuse_muon_without_matrices(manifest_with_labels(model, examples), plan, model.spec)


def refuse_device_misfits(hyperparameters: Hyperparameters, task: str, *, devices: int, strategy: str) -> None:
    """Refuses what several devices could not do with the same result as one. Raises InvalidRequest."""
    refuse_devices(
        devices,
        sharded=strategy == "fsdp",
        task=task,
        optimizer=hyperparameters.optimizer.name if hyperparameters.optimizer else "adamw",
        precision=hyperparameters.precision,
        cached=hyperparameters.prefix_cache is True,
        compiled=bool(hyperparameters.compile),
    )


def refuse_uneven_machines(machines: int, *, devices: int) -> None:
    """Refuses a number of devices that machines cannot share evenly. Raises InvalidRequest."""
    if devices % machines:
        fits = max(1, devices // machines) * machines
        message = (
            f"{devices} devices cannot be shared evenly by {machines} machines; request {fits} or {fits + machines}"
        )
        raise InvalidRequest(message, param="resources.devices")


def refuse_more_than_the_limit(context: SubmissionContext, devices: int) -> None:
    """Refuses a job that needs more devices than its project may use at once: it would never run."""
    limit = ProjectShares.of(context.settings).limit(context.project)
    if limit is None or devices <= limit:
        return
    remedy = f"request {limit} at most" if limit else "its jobs do not run here"
    message = f"project {context.project!r} may use {limit} devices at once (PERMAFROST_PROJECT_DEVICES): {remedy}"
    raise InvalidRequest(message, param="resources.devices")


def manifest_with_labels(model: ChosenModel, examples: RequestExamples) -> Manifest | None:
    """The model's tensors where they are known; the training file gives the number of classes of a new head."""
    known = model.manifest_for(examples.task)
    labels = examples.summaries[0].labels if examples.summaries[0] else None
    if known is not None and known.open_head and labels and model.stored is not None:
        known = manifest.for_task(model.stored, examples.task, num_labels=len(labels))
    return known if known is not None and not known.open_head else None


def head_labels(context: SubmissionContext, model: ChosenModel, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """Classes of the head: the base's own where `labels` of the file are among them, else these. None: not known."""
    if not isinstance(model.spec, TransformersSpec):
        return labels
    own = label_map(context, model.spec, model.base_id)
    if own is None:
        return None
    return kept_map(labels, own)


def _is_affine(spec: ModelSpec) -> TypeGuard[TorchSpec]:
    """Whether the model is the one torch architecture whose tensors and sizes are known without a worker."""
    return isinstance(spec, TorchSpec) and spec.architecture == "affine"


def _refuse_other_sizes(spec: TorchSpec, training: Summary) -> None:
    """`affine` takes as many numbers, and gives as many, as its kwargs say."""
    kwargs = spec.kwargs or {}
    inputs, outputs = kwargs["in_features"], kwargs["out_features"]
    if training.features != inputs:
        message = f"an example has {training.features} features, and the model takes {inputs} (in_features)"
        raise DataError(message, param="training_file", code="data_does_not_fit_model")
    if training.labels is not None:
        refuse_few_outputs(len(training.labels), outputs)
    elif training.targets != outputs:
        message = f"an example has {training.targets} targets, and the model gives {outputs} (out_features)"
        raise DataError(message, param="training_file", code="data_does_not_fit_model")


def _refuse_large_micro_batch(hyperparameters: Hyperparameters, examples: int | None) -> None:
    batch = hyperparameters.batch_size
    if not isinstance(batch, int) and examples is not None:
        batch = auto.batch_size(examples)
    if hyperparameters.micro_batch_size is not None and isinstance(batch, int):
        refuse_large_micro_batch(micro_batch_size=hyperparameters.micro_batch_size, batch_size=batch)


def _refuse_muon_without_matrices(known: Manifest | None, plan: FreezePlan | None, spec: ModelSpec) -> None:
    """Muon trains matrices between the embeddings and the output layer; a new head is not one of them."""
    if plan is None or known is None:
        return
    embeddings = {tensor.name for tensor in known.tensors if "Embedding" in (tensor.module_types or ("",))[-1]}
    outside = embeddings | known.initialised
    if isinstance(spec, TorchSpec):  # the last module with a matrix is the output layer; `affine` has no other
        outside |= {tensor.name for tensor in known.tensors}
    moving = (*plan.trainable, *plan.split, *plan.scheduled)
    if any(tensor.kind == "parameter" and len(tensor.shape) == 2 and tensor.name not in outside for tensor in moving):
        return
    message = "muon is for matrices between embeddings and output layer, and none of these trains here; use 'adamw'"
    raise InvalidRequest(message, param="hyperparameters.optimizer.name")
