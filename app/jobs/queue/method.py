"""The `method` object of OpenAI's wire format, made from a task and its hyperparameters."""

from collections.abc import Mapping
from typing import Any, Final

#: OpenAI's hyperparameters by the kind of method.
_THEIRS: Final = {
    "supervised": ("n_epochs", "batch_size", "learning_rate_multiplier"),
    "dpo": ("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
}


def method_of(task: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `method`, where its clients look for their hyperparameters."""
    kind = "dpo" if task == "preference" else "supervised"
    theirs = {name: hyperparameters[name] for name in _THEIRS[kind] if name in hyperparameters}
    return {"type": kind, kind: {"hyperparameters": theirs}}
