"""Options of a request that only some tasks use: refused for a task that would ignore them or break on them."""

from collections.abc import Mapping
from typing import Any, Final

from app.errors import InvalidRequest
from app.files.tables import File
from app.jobs.requests.hyperparameters import Hyperparameters
from app.jobs.requests.schemas import JobCreate

#: Hyperparameters that only these tasks read.
_OF_TASKS: Final = {
    "beta": ("preference",),
    "temperature": ("pairs",),
    "packing": ("causal-lm",),
    "label_smoothing": (
        "text-classification",
        "token-classification",
        "image-classification",
        "tabular-classification",
        "causal-lm",
    ),
    "max_length": (
        "text-classification",
        "text-regression",
        "token-classification",
        "causal-lm",
        "pairs",
        "preference",
    ),
}


def refuse_task_conflicts(
    hyperparameters: Hyperparameters, task: str, *, spec: Mapping[str, Any], validation: File | None
) -> None:
    """Refuses every option that the task would ignore or cannot train with. Raises InvalidRequest."""
    _refuse_adapter(spec, task)
    _refuse_options_of_other_tasks(hyperparameters, task)
    _refuse_split_pairs(hyperparameters, task)
    _refuse_early_stopping_without_validation(hyperparameters, validation)


def refuse_other_method(method: str | None, task: str) -> None:
    """DPO trains preferences and nothing else; `supervised` trains every other task. Raises InvalidRequest."""
    if method is None or (method == "dpo") == (task == "preference"):
        return

    if task == "preference":
        message = (
            "the method is supervised and the task preference, which is trained by DPO; "
            'give {"type": "dpo"}, or leave the method out'
        )
    else:
        message = f"dpo learns from preferences, and the task is {task}; give a file of {{prompt, chosen, rejected}}"
    raise InvalidRequest(message, param="method.type", code="method_does_not_fit")


def method_type(request: JobCreate) -> str | None:
    """The `type` of OpenAI's `method`, where the request has one."""
    return request.method.type if request.method else None


def _refuse_adapter(spec: Mapping[str, Any], task: str) -> None:
    """Prompt tuning is only supported for causal-lm."""
    if (spec.get("adapter") or {}).get("type") == "prompt_tuning" and task != "causal-lm":
        message = f"prompt tuning is offered for causal-lm, and this is {task}; use lora or ia3"
        raise InvalidRequest(message, param="model.adapter.type", code="unsupported_adapter")


def _refuse_options_of_other_tasks(hyperparameters: Hyperparameters, task: str) -> None:
    """A hyperparameter of another task would be ignored."""
    for name, tasks in _OF_TASKS.items():
        if getattr(hyperparameters, name) not in (None, False) and task not in tasks:
            message = f"{name} is for {', '.join(tasks)}, and the task is {task}; leave it out"
            raise InvalidRequest(message, param=f"hyperparameters.{name}", code="ignored_option")


def _refuse_split_pairs(hyperparameters: Hyperparameters, task: str) -> None:
    """Pairs use the other examples of the batch as negatives, so a batch cannot be accumulated from parts."""
    if task == "pairs" and (hyperparameters.gradient_accumulation_steps or 1) > 1:
        message = "pairs take their negatives from the batch, so it cannot be cut into parts; lower batch_size instead"
        raise InvalidRequest(message, param="hyperparameters.gradient_accumulation_steps")


def _refuse_early_stopping_without_validation(hyperparameters: Hyperparameters, validation: File | None) -> None:
    """Early stopping compares validation losses."""
    if hyperparameters.early_stopping_patience and validation is None and not hyperparameters.validation_fraction:
        message = "early stopping needs a validation_file, or a validation_fraction"
        raise InvalidRequest(message, param="hyperparameters.early_stopping_patience")
