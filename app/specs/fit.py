"""What the data, the devices and the hyperparameters of a job must have in common, each rule once.

A dry run and a submission refuse by these what they know already, the trainer everything. Raises InvalidRequest with
`param`, a path in the request.
"""

from typing import Final

from app.errors import DataError, InvalidRequest
from app.specs.rules import CONTRASTIVE

#: fsdp leaves a part of each tensor on each device: these optimizers step each element by itself.
SHARDABLE: Final = ("adamw", "adam", "sgd")
#: Tasks whose examples have one number each, so that the head has one output.
ONE_OUTPUT: Final = ("text-regression", "text-ranking")


def refuse_more_labels(labels: int, num_labels: int | None) -> None:
    """A head of `num_labels` classes has no output for further labels of the data."""
    if num_labels and num_labels < labels:
        message = f"the data has {labels} labels, and model.num_labels is {num_labels}"
        raise InvalidRequest(message, param="model.num_labels")


def refuse_few_outputs(labels: int, outputs: int) -> None:
    """A plain torch model has as many outputs as its kwargs say."""
    if outputs < labels:
        message = f"the data has {labels} labels, and the model gives {outputs} outputs"
        raise DataError(message, param="training_file", code="data_does_not_fit_model")


def refuse_regression_labels(task: str, num_labels: int | None) -> None:
    """A text has one number as its label."""
    if task in ONE_OUTPUT and (num_labels or 1) > 1:
        message = f"the task {task} has one number per example, and model.num_labels is {num_labels}"
        raise InvalidRequest(f"{message}; leave it out", param="model.num_labels")


def refuse_large_micro_batch(*, micro_batch_size: int, batch_size: int) -> None:
    """A batch passes through the model in parts, and no part is larger than the whole."""
    if micro_batch_size > batch_size:
        message = f"micro_batch_size {micro_batch_size} is larger than batch_size {batch_size}"
        raise InvalidRequest(message, param="hyperparameters.micro_batch_size")


def refuse_devices(
    devices: int,
    *,
    sharded: bool,
    task: str,
    optimizer: str,
    precision: str | None,
    cached: bool,
    compiled: bool,
) -> None:
    """A task or a hyperparameter that needs the whole batch or whole tensors on one device."""
    if devices == 1:
        return

    if task in CONTRASTIVE:
        message = f"{task} takes negatives from the whole batch, which several devices would cut; use one device"
        raise InvalidRequest(message, param="resources.devices")
    if cached:
        message = "the frozen prefix is computed once on one device only; leave prefix_cache out, or use one"
        raise InvalidRequest(message, param="hyperparameters.prefix_cache")
    if compiled:
        message = "a model is compiled on one device only; leave compile out, or use one"
        raise InvalidRequest(message, param="hyperparameters.compile")
    if not sharded:
        return

    if optimizer not in SHARDABLE:
        message = f"{optimizer} looks at whole tensors, and fsdp leaves a part on each device; use ddp, or adamw"
        raise InvalidRequest(message, param="hyperparameters.optimizer.name")
    if precision == "fp16":
        message = "the loss scaling of fp16 is not offered with fsdp; use bf16, or the strategy ddp"
        raise InvalidRequest(message, param="hyperparameters.precision")
