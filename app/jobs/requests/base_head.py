"""The head that a base already has, as its config.json describes it: its task, and the names of its classes."""

import json
from typing import Any, Final

from app.errors import PermafrostError
from app.jobs.requests.context import SubmissionContext
from app.models.catalog import folder_of
from app.models.tables import Model
from app.specs.models import TransformersSpec, folder_name

_MAX_CONFIG_BYTES: Final = 1 << 20


def label_map(context: SubmissionContext, spec: TransformersSpec, base_id: str | None) -> tuple[str, ...] | None:
    """Names of the classes of a base that already has a labelled head; empty without one, None where not known here."""
    try:
        names = read_config(context, spec, base_id).get("id2label")
    except (PermafrostError, OSError, ValueError, AttributeError):
        return None
    if not isinstance(names, dict) or not all(str(index).isdecimal() for index in names):
        return ()
    ordered = tuple(str(names[index]) for index in sorted(names, key=int))
    return () if all(name.startswith("LABEL_") for name in ordered) else ordered


def classes_of_texts(context: SubmissionContext, spec: TransformersSpec, base_id: str | None) -> int:
    """The number of classes of a base that classifies texts; 0 for any other base, and where it is not known here."""
    try:
        config = read_config(context, spec, base_id)
        architectures = [str(name) for name in config.get("architectures") or ()]
        names, problem, number = config.get("id2label"), config.get("problem_type"), config.get("num_labels", 2)
    except (PermafrostError, OSError, ValueError, AttributeError, TypeError):
        return 0
    if problem == "regression" or not any(name.endswith("ForSequenceClassification") for name in architectures):
        return 0
    classes = len(names) if isinstance(names, dict) and names else number
    return classes if isinstance(classes, int) and classes > 1 else 0  # one output is a number


def read_config(context: SubmissionContext, spec: TransformersSpec, base_id: str | None) -> Any:
    """A base's config.json. PermafrostError, OSError or ValueError where it cannot be read here."""
    row = context.session.get(Model, base_id) if base_id is not None else None
    blob = next((file["blob"] for file in row.files if file["name"] == "config.json"), None) if row else None
    if blob is None:
        path = folder_of(context.settings, folder_name(spec), param="model.path") / "config.json"
        return json.loads(path.read_bytes())
    with context.storage.open(blob) as source:
        return json.loads(source.read(_MAX_CONFIG_BYTES))
