"""The ids of models that come from a hub or a store: the commit or the digest in one fixes its bytes."""

import hashlib


def hub_model_id(repository: str, commit: str, *, project: str | None = None) -> str:
    """The id of a model of a hub. One that took a project's token is another model than the public one of that name."""
    public = f"{repository}@{commit}"
    return public if project is None else f"{public}:{_short(project)}"


def store_model_id(prefix: str, revision: str, *, project: str) -> str:
    """The id of a project's model from an object store; `revision` is the digest of its files."""
    return f"s3:{prefix.removeprefix('s3://').strip('/')}@{revision[:32]}:{_short(project)}"


def _short(project: str) -> str:
    return hashlib.sha256(project.encode()).hexdigest()[:12]
