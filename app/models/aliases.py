"""Other names of models (PERMAFROST_MODEL_ALIASES), so that a request for `gpt-4.1-mini` trains a model of ours."""

from app.settings import Settings, stands_for
from app.specs.models import RegisteredSpec, TransformersSpec


def aliased(settings: Settings, name: str) -> str | None:
    """The model that a name stands for: the first pattern that matches all of it decides. None where none does."""
    return stands_for(settings.aliases, name)


def choice(model: str) -> RegisteredSpec | TransformersSpec:
    """What an alias stands for: a model by its id, or one of a hub as `owner/name` or `owner/name@revision`."""
    if "/" not in model:
        return RegisteredSpec(id=model)
    path, _, revision = model.partition("@")
    return TransformersSpec(path=path, revision=revision or None)
