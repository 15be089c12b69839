"""A request becomes a job: everything that can be known to be wrong is refused here, before anything is stored."""

import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from app.db import new_id
from app.errors import DataError, InvalidRequest
from app.files import formats
from app.files.queries import check_quota, find_file
from app.files.tables import File
from app.freeze.implied import implied_policy
from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from app.jobs.queue.method import method_of
from app.jobs.queue.tables import Job
from app.jobs.requests.hyperparameters import Hyperparameters
from app.jobs.requests.model_spec import TorchSpec
from app.jobs.requests.optimizers import refuse_ignored_options, refuse_unreadable_groups
from app.jobs.requests.schemas import EvidenceOptions, JobCreate, Resources
from app.jobs.requests.weights import refuse_other_weights
from app.models.catalog import ChosenModel, choose, find_model, similar_tensors
from app.settings import Settings
from app.storage.blobs import Storage, missing_is_told

#: Larger files are read by a worker, line by line, before it trains.
INLINE_BYTES: Final = 4 << 20
#: A task is inferred from a file's first examples; one in an object store would have to be fetched for it.
_INFER_BYTES: Final = 64 << 20

#: Hyperparameters that only some tasks look at.
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
#: A torch spec says what its numbers are for; the data's reader calls these tasks by their full names.
_TABULAR: Final = {"regression": "tabular-regression", "classification": "tabular-classification"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a submission looks things up."""

    session: Session
    storage: Storage
    settings: Settings
    project: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a request once everything in it has been looked at."""

    policy: Policy
    chosen: ChosenModel
    task: str
    data: dict[str, Any]
    files: tuple[File, File | None]
    summaries: tuple[formats.Summary | None, formats.Summary | None]  # None: there is no such file, or nobody read it
    settings: dict[str, Any]
    plan: FreezePlan | None

    @property
    def checked(self) -> bool:
        """Whether every file was read to its end."""
        return all(summary is not None for file, summary in zip(self.files, self.summaries, strict=True) if file)


def prepare(place: Place, wanted: JobCreate, *, idempotency_key: str | None) -> Job:
    """The row of a new job, not yet stored. Raises InvalidRequest and its kin, with `param`."""
    return job_of(place, wanted, examine(place, wanted), idempotency_key=idempotency_key)


def examine(place: Place, wanted: JobCreate, *, read_bytes: int = INLINE_BYTES) -> Found:
    """Looks at everything that a request names; files of up to `read_bytes` to their ends."""
    check_quota(place.session, place.project, asked=0, limit=place.settings.max_project_bytes)
    policy = wanted.policy()
    chosen = choose(place.session, place.settings, place.project, _plain(wanted.model))
    if adapter := chosen.spec.get("adapter"):
        policy = _frozen_by_default(policy) if adapter.get("merge") else implied_policy(policy)
    files = _files(place, wanted, chosen)
    task, data, summaries = _examples(place, wanted, chosen, files, read_bytes)
    refuse_adapter(chosen.spec, task)
    hyperparameters = wanted.chosen()
    refuse_ignored_options(hyperparameters, policy)
    refuse_foreign(hyperparameters, task)
    refuse_cut_pairs(hyperparameters, task)
    refuse_impatience(hyperparameters, files[1])
    settings = hyperparameters.model_dump(exclude_none=True) | (
        _ask_beta(hyperparameters) if task == "preference" else {}
    )
    plan = _plan(place, policy, chosen, task)
    refuse_unreadable_groups(hyperparameters, chosen.tensors_for(task), plan, enforce=policy.enforce)
    return Found(policy, chosen, task, data, files, summaries, settings, plan)


def job_of(place: Place, wanted: JobCreate, found: Found, *, idempotency_key: str | None) -> Job:
    training, validation = found.files
    resources = wanted.resources or Resources()
    return Job(
        id=new_id("ftjob"),
        project=place.project,
        status="queued" if found.checked else "validating_files",
        priority=wanted.priority,
        model=found.chosen.name,
        model_spec=found.chosen.spec,
        base_model=found.chosen.base_id,
        task=found.task,
        training_file=training.id,
        validation_file=validation.id if validation else None,
        data=found.data,
        suffix=wanted.suffix,
        seed=wanted.seed if wanted.seed is not None else secrets.randbelow(2**31),
        hyperparameters=found.settings,
        method=method_of(found.task, found.settings),
        meta=wanted.metadata,
        tags=list(dict.fromkeys(wanted.tags or [])),
        retries=wanted.retries,
        devices=resources.devices,
        strategy=resources.strategy,
        integrations=None,
        freeze_policy=found.policy.to_json(),
        freeze_plan=found.plan.counts() if found.plan else None,
        evidence_options=(wanted.evidence or EvidenceOptions()).model_dump(exclude_none=True),
        fingerprint=fingerprint(wanted),
        idempotency_key=idempotency_key,
        result_files=[],
    )


def _frozen_by_default(policy: Policy) -> Policy:
    """A merged adapter changes what it is merged into; the rules for that are made where the model is known."""
    return policy if policy.rules else Policy.from_json({**policy.to_json(), "default": "freeze"})


def refuse_adapter(spec: Mapping[str, Any], task: str) -> None:
    """Virtual tokens stand in front of a text that is being continued."""
    if (spec.get("adapter") or {}).get("type") == "prompt_tuning" and task != "causal-lm":
        message = f"prompt tuning is offered for causal-lm, and this is {task}; use lora or ia3"
        raise InvalidRequest(message, param="model.adapter.type", code="unsupported_adapter")


def fingerprint(wanted: JobCreate) -> str:
    """Equal for requests that ask for the same, however their JSON is written."""
    content = json.dumps(wanted.model_dump(mode="json", exclude_unset=True, exclude={"dry_run"}), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def refuse_foreign(hyperparameters: Hyperparameters, task: str) -> None:
    """A hyperparameter of another task would be ignored."""
    for name, tasks in _OF_TASKS.items():
        if getattr(hyperparameters, name) not in (None, False) and task not in tasks:
            message = f"{name} is for {', '.join(tasks)}, and the task is {task}; leave it out"
            raise InvalidRequest(message, param=f"hyperparameters.{name}", code="ignored_option")


def refuse_cut_pairs(hyperparameters: Hyperparameters, task: str) -> None:
    """The rest of its batch is what an anchor is told apart from."""
    if task == "pairs" and (hyperparameters.gradient_accumulation_steps or 1) > 1:
        message = "pairs take their negatives from the batch, so it cannot be cut into parts; lower batch_size instead"
        raise InvalidRequest(message, param="hyperparameters.gradient_accumulation_steps")


def refuse_impatience(hyperparameters: Hyperparameters, validation: File | None) -> None:
    """Early stopping has to judge by something."""
    if hyperparameters.early_stopping_patience and validation is None and not hyperparameters.validation_fraction:
        message = "early stopping needs a validation_file, or a validation_fraction"
        raise InvalidRequest(message, param="hyperparameters.early_stopping_patience")


def _ask_beta(hyperparameters: Hyperparameters) -> dict[str, Any]:
    """OpenAI's answers for DPO always tell it."""
    return {"beta": "auto" if hyperparameters.beta is None else hyperparameters.beta}


def _plain(model: Any) -> str | dict[str, Any]:
    return model if isinstance(model, str) else model.model_dump(exclude_none=True)


def _plan(place: Place, policy: Policy, chosen: ChosenModel, task: str) -> FreezePlan | None:
    """The policy over the model's tensors, where they are known; it is refused here if it does not fit them."""
    tensors = chosen.tensors_for(task)
    if tensors is not None:
        return resolve(policy, tensors)
    similar = similar_tensors(place.session, place.project, chosen, task)
    if similar is not None:
        resolve(policy, similar)  # the names are right; the head's size, and so the counts, may not be
    return None


def _files(place: Place, wanted: JobCreate, chosen: ChosenModel) -> tuple[File, File | None]:
    training = _file(place, wanted.training_file, param="training_file")
    validation = _file(place, wanted.validation_file, param="validation_file") if wanted.validation_file else None
    if isinstance(wanted.model, TorchSpec) and wanted.model.weights is not None:
        file = find_file(place.session, place.project, wanted.model.weights, param="model.weights")
        refuse_other_weights(place.storage, file, chosen.tensors_for(wanted.model.task))
    return training, validation


def hold(session: Session, job: Job) -> None:
    """Has the files and models that a job needs stay until the transaction ends. Raises NotFound, or Gone, for one that
    is not there any more."""
    files = {
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "model.weights": job.model_spec.get("weights"),
    }
    for param, file_id in files.items():
        if file_id is not None:
            find_file(session, job.project, file_id, param=param, lock="keep")
    adapter = job.model_spec.get("adapter") or {}
    for model_id in (job.base_model, adapter.get("start")):
        if model_id is not None:
            find_model(session, job.project, model_id, lock="keep")


def _file(place: Place, file_id: str, *, param: str) -> File:
    row = find_file(place.session, place.project, file_id, param=param)
    if row.purpose != "fine-tune":
        message = f"{file_id} was uploaded for {row.purpose!r}; upload it again with the purpose 'fine-tune'"
        raise InvalidRequest(message, param=param, code="wrong_purpose")
    if row.bytes == 0:
        raise DataError(f"{file_id} is empty", param=param, code="empty_file")
    return row


def _examples(
    place: Place, wanted: JobCreate, chosen: ChosenModel, files: tuple[File, File | None], read_bytes: int
) -> tuple[str, dict[str, Any], tuple[formats.Summary | None, formats.Summary | None]]:
    """The task, how the files are to be read, and what is in those that were read to their ends."""
    training, validation = files
    data: dict[str, Any] = wanted.data.model_dump(exclude_none=True) if wanted.data else {}
    data["format"] = _format(place.storage, training, param="training_file")
    task = _task(place, wanted, chosen, training, data["format"])
    _refuse_other_method(wanted, task)
    read = _Reading(place.storage, data, task, read_bytes)
    trained, held_out = read.file(training, data["format"], param="training_file"), None
    if validation is not None:
        data["validation_format"] = _format(place.storage, validation, param="validation_file")
        held_out = read.file(validation, data["validation_format"], param="validation_file")
    return task, data, (trained, held_out)


def _task(place: Place, wanted: JobCreate, chosen: ChosenModel, file: File, form: str) -> str:
    """As asked for, the spec's own, what the method is for; else what the file's fields speak of."""
    if chosen.spec["type"] == "torch":
        return _torch_task(place, wanted, chosen, file, form)
    named = getattr(wanted.model, "task", None)
    if wanted.task and named and wanted.task != named:
        message = f"the task is {wanted.task} here and {named} in the model spec; keep one of them"
        raise InvalidRequest(message, param="task", code="conflict")
    dpo = "preference" if wanted.method and wanted.method.type == "dpo" else None
    if task := wanted.task or chosen.spec.get("task") or dpo:
        return str(task)
    return _inferred(place, file, form)


def _torch_task(place: Place, wanted: JobCreate, chosen: ChosenModel, file: File, form: str) -> str:
    """A torch spec says what its numbers are for; a classification's examples may be pictures."""
    if wanted.task:
        message = "a torch model's task is 'regression' or 'classification', as `task` of the model spec"
        raise InvalidRequest(message, param="task")
    kind = str(chosen.spec.get("task", "regression"))
    if kind == "classification" and form != "csv" and formats.can_read(form):
        with _on_disk(place.storage, file) as path:
            kind = "image-classification" if formats.holds_images(path, form) else kind
    return _TABULAR.get(kind, kind)


def _inferred(place: Place, file: File, form: str) -> str:
    if not formats.can_read(form) or (place.storage.root is None and file.bytes > _INFER_BYTES):
        message = "the task cannot be told from this file here; name it in the model spec"
        raise InvalidRequest(message, param="model.task", code="missing_field")
    with _on_disk(place.storage, file) as path:
        return formats.infer_task(path, form)


def _refuse_other_method(wanted: JobCreate, task: str) -> None:
    """A method that is named trains what it is for, and nothing else."""
    if wanted.method is None or (wanted.method.type == "dpo") == (task == "preference"):
        return
    if task == "preference":
        message = (
            "the method is supervised and the task preference, which is trained by DPO; "
            'give {"type": "dpo"}, or leave the method out'
        )
    else:
        message = f"dpo learns from preferences, and the task is {task}; give a file of {{prompt, chosen, rejected}}"
    raise InvalidRequest(message, param="method.type", code="method_does_not_fit")


@dataclass(frozen=True, slots=True)
class _Reading:
    """How files are read to their ends."""

    storage: Storage
    data: Mapping[str, Any]
    task: str
    most: int

    def file(self, file: File, form: str, *, param: str) -> formats.Summary | None:
        """None for a file that is left to a worker. Raises DataError with lines and fields."""
        if file.bytes > self.most or not formats.can_read(form):
            return None
        columns = formats.Columns.from_json(self.data)
        with _on_disk(self.storage, file) as path:
            held_out = param == "validation_file"
            return formats.validate(path, format=form, task=self.task, columns=columns, held_out=held_out, param=param)


def _format(storage: Storage, file: File, *, param: str) -> str:
    with storage.open(file.blob) as source:
        head = source.read(4096)
    try:
        return formats.detect(file.filename, head)
    except DataError as error:
        raise DataError(error.message, param=param) from None


@contextmanager
def _on_disk(storage: Storage, file: File) -> Iterator[Path]:
    """The file's bytes under a path, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="permafrost-") as folder, missing_is_told(file.blob):
        yield storage.fetch(file.blob, Path(folder) / "data")
