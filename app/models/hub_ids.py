"""The ids of models that come from a hub: the commit in one fixes its bytes."""

import hashlib


def hub_model_id(repository: str, commit: str, *, project: str | None = None) -> str:
    """The id of a model of a hub. One that took a project's token is another model than the public one of that name."""
    public = f"{repository}@{commit}"
    return public if project is None else f"{public}:{hashlib.sha256(project.encode()).hexdigest()[:12]}"
