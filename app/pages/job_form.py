"""The fields of the form that submits a job, and the request that they make."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.orm import Session

from app.errors import InvalidRequest
from app.freeze import fitted_presets
from app.http.json_body import parse
from app.http.validation import explain_fields
from app.jobs.requests.schemas import JobCreate
from app.jsontypes import JsonDict
from app.models.catalog import choose
from app.models.manifest import OWN, Manifest
from app.settings import Settings
from app.specs.adapters import AdapterSpec
from app.specs.models import RegisteredSpec, TransformersSpec, read_model

#: The preset that stands for the text in the field `policy`.
OWN_POLICY: Final = "json"
_TEXT: Final = 64 << 10


class JobForm(BaseModel):
    """Every field is a text, as browsers send it: what is wrong with one is said in our words, beside the form."""

    do: str = "submit"
    once: str = Field(default="", max_length=64)
    model: str = Field(default="", max_length=_TEXT)
    training_file: str = ""
    validation_file: str = ""
    task: str = ""
    preset: str = "everything"
    layers: str = "1"
    policy: str = Field(default="", max_length=_TEXT)
    audit: str = ""
    adapter: str = ""
    rank: str = "8"
    n_epochs: str = ""
    batch_size: str = ""
    learning_rate: str = ""
    seed: str = ""
    suffix: str = ""
    tags: str = ""
    more: str = Field(default="", max_length=_TEXT)

    def names_file(self) -> bool:
        """Whether a training file is chosen, or named in the field for any other."""
        return bool(self.training_file or _object(self.more, param="more").get("training_file"))

    def request(self, freeze_policy: JsonDict) -> JobCreate:
        """The request, as if it had been posted. Raises InvalidRequest with the field at fault."""
        if not self.names_file():
            message = "upload a training file, or choose one that is here"
            raise InvalidRequest(message, param="training_file", code="missing_field")
        body: JsonDict = {"model": self.model_field(), "training_file": self.training_file, **self._options()}
        if freeze_policy:
            body["freeze_policy"] = freeze_policy
        more = _object(self.more, param="more")
        given = more.pop("hyperparameters", {})
        body |= more
        # What is no object is refused by the schema.
        body["hyperparameters"] = {**self._hyperparameters(), **given} if isinstance(given, dict) else given
        with _explained(body):
            return JobCreate.model_validate({name: value for name, value in body.items() if value != {}})

    def model_field(self) -> str | JsonDict:
        """An id, or a spec: one that was written as JSON, or an id with an adapter."""
        text = self.model.strip()
        if not text:
            raise InvalidRequest("choose a model", param="model", code="missing_field")
        if text.startswith("{"):
            return _object(text, param="model")
        if not self.adapter:
            return text
        rank = _whole(self.rank, param="rank")
        return {"type": "transformers", "path": text, "adapter": {"type": self.adapter, "r": rank}}

    def adapter_spec(self) -> AdapterSpec | None:
        """The adapter that the job would train, by its own fields or in a spec that was written as JSON."""
        model = self.model_field() if self.model.strip() else None
        spec = read_model(model) if isinstance(model, dict) else None
        return spec.adapter if isinstance(spec, TransformersSpec) else None

    def freeze_policy(self, manifest: Manifest | None) -> JsonDict:
        """The policy by preset or as it was written. Raises InvalidRequest where a preset needs to know the model."""
        if self.preset == OWN_POLICY and not self.policy.strip():
            message = "write the policy as JSON, or choose another; {} trains everything"
            raise InvalidRequest(message, param="policy", code="missing_field")
        if self.preset == OWN_POLICY:
            made = _object(self.policy, param="policy")
        elif self.preset == "everything":
            made = {}
        elif self.preset in fitted_presets.PRESETS and self.adapter_spec() is not None:
            message = "below an adapter the whole base is frozen already: choose the first preset, or write the policy"
            raise InvalidRequest(f"{message} as JSON", param="preset")
        elif manifest is None:
            message = "a preset needs the model's tensors, which are not known yet: a worker reads a model that is "
            message += "registered, or that a job has used; or write the policy as JSON"
            raise InvalidRequest(message, param="preset", code="model_not_read")
        else:
            layers = _whole(self.layers, param="layers") if self.preset == "layers" else 1
            made = fitted_presets.policy(self.preset, manifest.tensors, initialised=manifest.initialised, layers=layers)
        return made | {"enforce": False} if self.audit and made else made

    def _options(self) -> JsonDict:
        tags = [tag.strip() for tag in self.tags.split(",") if tag.strip()]
        named = {
            "validation_file": self.validation_file,
            "task": self.task,
            "suffix": self.suffix.strip(),
            "tags": tags,
            "seed": _whole(self.seed, param="seed") if self.seed.strip() else None,
        }
        return {name: value for name, value in named.items() if value not in ("", [], None)}

    def _hyperparameters(self) -> JsonDict:
        names = ("n_epochs", "batch_size", "learning_rate")
        return {name: _number(value) for name in names if (value := getattr(self, name).strip())}


def manifest_of(session: Session, settings: Settings, project: str, form: JobForm) -> Manifest | None:
    """The tensors of the form's model for its task; those of any task that it is known for, where none is named.

    Raises InvalidRequest where a head is to be trained and no task says which.
    """
    model = form.model_field()
    choice = RegisteredSpec(id=model) if isinstance(model, str) else read_model(_without_adapter(model))
    chosen = choose(session, settings, project, choice)
    if form.task or not isinstance(chosen.stored, dict):
        return chosen.manifest_for(form.task or None)
    if form.preset == "head" and not form.adapter:
        message = "which head there is depends on the task: choose a training file or a task"
        raise InvalidRequest(message, param="task", code="missing_field")
    return chosen.manifest_for(None) or next(
        filter(None, (chosen.manifest_for(task) for task in chosen.stored if task != OWN)), None
    )


def _without_adapter(model: JsonDict) -> JsonDict:
    return {name: value for name, value in model.items() if name != "adapter"}


@contextmanager
def _explained(body: JsonDict) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise explain_fields(RequestValidationError(problems, body=body)) from None


def _object(text: str, *, param: str) -> JsonDict:
    """A JSON object; an empty text is an empty one."""
    if not text.strip():
        return {}
    try:
        value = parse(text.encode())
    except InvalidRequest as error:
        raise InvalidRequest(f"{param}: {_place(text) or error.message}", param=param, code=error.code) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: must be a JSON object, such as {{}}", param=param, code="invalid_value")
    return value


def _place(text: str) -> str:
    """Where a text stops to be JSON; empty where it is JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"not JSON in line {error.lineno}, column {error.colno}: {error.msg}"
    except (ValueError, RecursionError):
        return ""
    return ""


def _whole(text: str, *, param: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidRequest(f"{param}: {text!r} is no whole number", param=param, code="invalid_value") from None


def _number(text: str) -> Any:
    """A number where the text is one; else the text, such as `auto`, which the schema judges."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
