"""Other names of models (PERMAFROST_MODEL_ALIASES), so that a request for `gpt-4.1-mini` trains a model of ours."""

import re

from app.settings import Settings
from app.specs.models import RegisteredSpec, TransformersSpec


def aliased(settings: Settings, name: str) -> str | None:
    """The model that a name stands for: the first pattern that matches all of it decides. None where none does."""
    for pattern, model in settings.aliases.items():
        if _matches(pattern, name):
            return model
    return None


def choice(model: str) -> RegisteredSpec | TransformersSpec:
    """What an alias stands for: a model by its id, or one of a hub as `owner/name` or `owner/name@revision`."""
    if "/" not in model:
        return RegisteredSpec(id=model)
    path, _, revision = model.partition("@")
    return TransformersSpec(path=path, revision=revision or None)


def _matches(pattern: str, name: str) -> bool:
    """Only `*` is special: brackets and question marks are part of a name."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
