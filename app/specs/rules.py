"""What does not fit together in a job, each rule once: a dry run, a submission and the trainer refuse by these.

Every function raises InvalidRequest, whose `param` is a path in the request, or returns None.
"""

from typing import Final

from app.errors import InvalidRequest, PolicyError
from app.specs.adapters import AdapterSpec, LoraSpec, PromptTuningSpec
from app.specs.hyperparameters import Hyperparameters

#: Tasks whose examples are texts, and all whose examples pass through a tokenizer.
TEXT: Final = (
    "text-classification",
    "text-regression",
    "text-ranking",
    "token-classification",
    "causal-lm",
    "pairs",
    "preference",
)
TOKENIZED: Final = (*TEXT, "image-text", "contrastive-image-text")
#: Hyperparameters that only these tasks read.
TASKS_OF_OPTIONS: Final = {
    "beta": ("preference",),
    "temperature": ("pairs",),
    "packing": ("causal-lm",),
    "label_smoothing": (
        "text-classification",
        "token-classification",
        "image-classification",
        "tabular-classification",
        "causal-lm",
        "image-text",
    ),
    "padding_free": TEXT,
    "max_length": TOKENIZED,
}
#: Tasks whose inputs have shapes that were not tried with a compiler: pictures come in numbers and sizes of their own.
_NOT_COMPILED: Final = ("image-text", "contrastive-image-text")
#: Tasks whose examples are compared with the others of their batch.
CONTRASTIVE: Final = ("pairs", "contrastive-image-text")
#: Other initialisations of LoRA move a part of the base's weights into the adapter.
_INITIALISATIONS: Final = (None, True, "gaussian")


def refuse_task_conflicts(
    hyperparameters: Hyperparameters, task: str, *, adapter: AdapterSpec | None, validated: bool
) -> None:
    """Options that the task would ignore or break on. `validated`: the job has a validation file."""
    refuse_adapter(adapter, task)
    _refuse_options_of_other_tasks(hyperparameters, task)
    _refuse_other_packing(hyperparameters, adapter)
    _refuse_split_pairs(hyperparameters, task)
    refuse_batch_of_one(task, hyperparameters.batch_size)
    _refuse_kept_dropout(hyperparameters)
    if hyperparameters.compile and task in _NOT_COMPILED:
        message = f"compile is not offered for {task}, which reads pictures beside texts; leave it out"
        raise InvalidRequest(message, param="hyperparameters.compile", code="ignored_option")
    refuse_blind_stopping(hyperparameters.early_stopping_patience, validated or hyperparameters.validation_fraction)


def refuse_adapter(adapter: AdapterSpec | None, task: str) -> None:
    """Prompt tuning is only supported for causal-lm, and no adapter may change the weights of its base."""
    if isinstance(adapter, PromptTuningSpec) and task != "causal-lm":
        message = f"prompt tuning is only supported for causal-lm, and this is {task}; use lora or ia3"
        raise InvalidRequest(message, param="model.adapter.type", code="unsupported_adapter")
    if not isinstance(adapter, LoraSpec):
        return

    if adapter.init_lora_weights not in _INITIALISATIONS:
        raise PolicyError(
            f"init_lora_weights {adapter.init_lora_weights!r} is not supported: PiSSA, OLoRA, LoftQ and similar "
            "rewrite the base or need data, and an adapter job leaves its base unchanged; use true or 'gaussian'",
            param="model.adapter.init_lora_weights",
        )
    if adapter.bias not in (None, "none"):
        raise PolicyError(
            f"bias={adapter.bias!r} trains biases of the base, which an adapter job leaves untouched; use 'none', "
            'or train without an adapter and with a policy such as {"train": ["**.bias"]}',
            param="model.adapter.bias",
        )


def refuse_merge_into_quantised(adapter: AdapterSpec | None) -> None:
    """An adapter is not merged into quantised weights: the sum would be rounded to codes that nobody trained with."""
    if adapter is not None and adapter.merge:
        message = (
            "the base is quantised, and an adapter cannot be merged into it: the sums would be rounded to codes again, "
            "and be another model than the one that was trained; leave merge out, and load the adapter over the base"
        )
        raise InvalidRequest(message, param="model.adapter.merge", code="quantised_model")


def refuse_dora_over_codes(adapter: AdapterSpec | None) -> None:
    """DoRA reads the base's weight itself, which peft cannot where another package packed it."""
    if isinstance(adapter, LoraSpec) and adapter.use_dora:
        message = "DoRA reads the weights of the base, and these are packed; leave use_dora out, or take a base in NF4"
        raise InvalidRequest(message, param="model.adapter.use_dora", code="quantised_model")


def refuse_without_adapter(adapter: AdapterSpec | None, form: str) -> None:
    """Loaders make floats of the codes of such a form, so that a whole model would not be what was proved."""
    if adapter is None:
        message = (
            f"the base is stored as {form}, and is trained by an adapter beside it: give the model an adapter, or "
            "take the plain weights"
        )
        raise InvalidRequest(message, param="model.adapter", code="quantised_model")


def refuse_quantising_again(quantize: str | None) -> None:
    """A base that is stored quantised is loaded as it is stored."""
    if quantize is not None:
        message = f"the base is stored quantised, and is loaded as it is stored; leave quantize {quantize!r} out"
        raise InvalidRequest(message, param="model.quantize", code="quantised_model")


def refuse_blind_stopping(patience: int | None, validated: object) -> None:
    """Early stopping compares validation losses; `validated` is true where there are examples for them."""
    if patience and not validated:
        message = "early stopping needs a validation_file, or a validation_fraction"
        raise InvalidRequest(message, param="hyperparameters.early_stopping_patience")


def refuse_small_micro_batch(task: str, *, micro_batch_size: int, batch_size: int) -> None:
    """An example's negatives are the others of its batch, so a batch cannot be accumulated from parts."""
    if task in CONTRASTIVE and micro_batch_size < batch_size:
        message = f"{task} takes negatives from the batch, so it cannot be cut into parts; lower batch_size instead"
        raise InvalidRequest(message, param="hyperparameters.gradient_accumulation_steps")


def refuse_batch_of_one(task: str, batch_size: object) -> None:
    """An example alone in its batch has no negatives, and nothing to learn. `batch_size` may be "auto" or absent."""
    if task in CONTRASTIVE and batch_size == 1:
        message = f"{task} compares an example with the others of its batch; batch_size 1 leaves none, take 2 or more"
        raise InvalidRequest(message, param="hyperparameters.batch_size")


def _refuse_options_of_other_tasks(hyperparameters: Hyperparameters, task: str) -> None:
    for name, tasks in TASKS_OF_OPTIONS.items():
        value = getattr(hyperparameters, name)
        if value not in (None, False) and (name, value) != ("padding_free", "auto") and task not in tasks:
            message = f"{name} is for {', '.join(tasks)}, and the task is {task}; leave it out"
            raise InvalidRequest(message, param=f"hyperparameters.{name}", code="ignored_option")


def _refuse_other_packing(hyperparameters: Hyperparameters, adapter: AdapterSpec | None) -> None:
    if hyperparameters.packing and isinstance(adapter, PromptTuningSpec):
        message = "prompt tuning puts its tokens before a row, not before each example of it; leave packing out"
        raise InvalidRequest(message, param="hyperparameters.packing")
    if hyperparameters.packing and hyperparameters.padding_free is True:
        message = "packing fills the padding that padding_free leaves out; keep one of them"
        raise InvalidRequest(message, param="hyperparameters.padding_free")


def _refuse_split_pairs(hyperparameters: Hyperparameters, task: str) -> None:
    """As far as it can be seen before "auto" is resolved."""
    parts = hyperparameters.gradient_accumulation_steps or 1
    refuse_small_micro_batch(task, micro_batch_size=1, batch_size=parts)


def _refuse_kept_dropout(hyperparameters: Hyperparameters) -> None:
    if hyperparameters.prefix_cache is True and hyperparameters.frozen_dropout:
        message = (
            "prefix_cache true keeps the frozen layers' results, which has no dropout in them, and frozen_dropout "
            'is true; leave one of them out, or let prefix_cache be "auto"'
        )
        raise InvalidRequest(message, param="hyperparameters.frozen_dropout")
