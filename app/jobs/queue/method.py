"""The `method` object of OpenAI's wire format, made from a task and its hyperparameters."""

from collections.abc import Mapping
from typing import Any, Final

from app.jsontypes import JsonDict

#: OpenAI's hyperparameters by the kind of method.
_OPENAI: Final = {
    "supervised": ("n_epochs", "batch_size", "learning_rate_multiplier"),
    "dpo": ("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
}


def method_of(task: str, hyperparameters: Mapping[str, Any]) -> JsonDict:
    """A job's `method`: OpenAI's clients look for their hyperparameters there."""
    kind = "dpo" if task == "preference" else "supervised"
    options = {name: hyperparameters[name] for name in _OPENAI[kind] if name in hyperparameters}
    return {"type": kind, kind: {"hyperparameters": options}}
