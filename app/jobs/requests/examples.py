"""The files of a request: which task they are for, how they are read, and what reading them to the end found."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.db import new_id
from app.errors import DataError, InvalidRequest, NotFound
from app.files import formats
from app.files.columns import Columns
from app.files.queries import find_file
from app.files.references import check as check_reference
from app.files.references import filename_of, is_reference
from app.files.tables import File
from app.jobs.requests.base_head import classes_of_texts
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.method import method_type, refuse_other_method
from app.jobs.requests.model_spec import TorchRequest
from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.weights import refuse_other_weights
from app.models.catalog import ChosenModel
from app.specs import models as specs
from app.specs.data import DataSpec
from app.storage.blobs import Storage, missing_blob_explained
from app.webhooks.addresses import Reach

#: A task is inferred from a file's first examples; a larger file in an object store would have to be fetched for it.
_INFER_BYTES: Final = 64 << 20
#: Reading a file may hold up a request for this long: a small Parquet file may have millions of rows.
_INLINE_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class RequestExamples:
    """The training and the validation file, in this order everywhere.

    A summary is None where there is no such file, or where it was not read to its end.
    """

    task: str
    data: DataSpec
    files: tuple[File, File | None]
    summaries: tuple[formats.Summary | None, formats.Summary | None]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is accepted, and is likely a mistake."""
        training, validation = self.files
        same = validation is not None and bool(training.blob) and validation.blob == training.blob
        labels = self.summaries[0].warnings if self.summaries[0] else ()
        return (*labels, *((formats.SAME_FILES,) if same else ()))

    @property
    def all_read(self) -> bool:
        """Whether every file was read to its end."""
        return all(summary is not None for file, summary in zip(self.files, self.summaries, strict=True) if file)


def find_files(context: SubmissionContext, request: JobCreate, model: ChosenModel) -> tuple[File, File | None]:
    """The training and the validation file; a file of weights is checked, too. Raises NotFound, InvalidRequest."""
    training = _training_file(context, request.training_file, param="training_file")
    validation = None
    if request.validation_file:
        validation = _training_file(context, request.validation_file, param="validation_file")

    if isinstance(request.model, TorchRequest) and request.model.weights is not None:
        weights = find_file(context.session, context.project, request.model.weights, param="model.weights")
        with _reading(context, weights, param="model.weights"):
            refuse_other_weights(context.storage, weights, model.tensors_for(request.model.task))
    return training, validation


def read_examples(
    context: SubmissionContext,
    request: JobCreate,
    model: ChosenModel,
    files: tuple[File, File | None],
    *,
    read_bytes: int,
) -> RequestExamples:
    """Decides the task and reads files of up to `read_bytes` to their ends. Raises DataError with lines and fields."""
    training, validation = files
    data = DataSpec.from_json(request.data.model_dump(exclude_none=True) if request.data else {})
    if training.pending:
        task = _task_of_reference(request, model)
        refuse_other_method(method_type(request), task)
        return RequestExamples(task, data, files, (None, None))

    with _reading(context, training, param="training_file"):
        format = _format(context.storage, training, param="training_file")
        data = replace(data, format=format)
        task = _task(context, request, model, training, format)
        refuse_other_method(method_type(request), task)
        reader = _ExamplesReader(context.storage, data, task, read_bytes)
        train_summary, valid_summary = reader.read(training, format, param="training_file"), None

    if validation is not None and not validation.pending:
        with _reading(context, validation, param="validation_file"):
            validation_format = _format(context.storage, validation, param="validation_file")
            data = replace(data, validation_format=validation_format)
            valid_summary = reader.read(validation, validation_format, param="validation_file")
    return RequestExamples(task, data, files, (train_summary, valid_summary))


def refuse_unknown_labels(context: SubmissionContext, examples: RequestExamples, labels: tuple[str, ...]) -> None:
    """DataError, with lines, for labels of the validation file that are none of the head's classes."""
    validation, summary = examples.files[1], examples.summaries[1]
    if validation is None or summary is None or set(summary.labels or ()) <= set(labels):
        return
    reader = _ExamplesReader(context.storage, examples.data, examples.task, validation.bytes, labels)
    with _reading(context, validation, param="validation_file"):
        reader.read(validation, str(examples.data.validation_format), param="validation_file")


def _training_file(context: SubmissionContext, file_id: str, *, param: str) -> File:
    if is_reference(file_id):
        return _file_by_reference(context, file_id, param=param)
    file = find_file(context.session, context.project, file_id, param=param)
    if file.purpose != "fine-tune":
        message = f"{file_id} was uploaded for {file.purpose!r}; upload it again with the purpose 'fine-tune'"
        raise InvalidRequest(message, param=param, code="wrong_purpose")
    if file.bytes == 0 and not file.pending:
        raise DataError(f"{file_id} is empty", param=param, code="empty_file")
    return file


def _file_by_reference(context: SubmissionContext, url: str, *, param: str) -> File:
    """A new file whose bytes a worker fetches: its row is stored together with the job's."""
    check_reference(url, param=param, reach=Reach.parse(context.settings.fetch_allow))
    file = File(id=new_id("file"), project=context.project, filename=filename_of(url), purpose="fine-tune", source=url)
    file.bytes, file.sha256, file.blob, file.status = 0, "", "", "uploaded"
    context.new_files[file.id] = file
    return file


def _task_of_reference(request: JobCreate, model: ChosenModel) -> str:
    """The task of a file that has not been fetched: the request's own, the model spec's, or that of the method."""
    if isinstance(model.spec, specs.TorchSpec):
        kind = str(model.spec.task or "regression")
        return specs.TABULAR.get(kind, kind)
    named = request.task or model.spec.task or ("preference" if method_type(request) == "dpo" else None)
    if named is None:
        message = "the task is inferred from a file, and this one has not been fetched yet; name the task"
        raise InvalidRequest(message, param="task", code="missing_field")
    return str(named)


@contextmanager
def _reading(context: SubmissionContext, file: File, *, param: str) -> Iterator[None]:
    """Refuses a file that is deleted while it is read in the same way as one that was deleted before."""
    file_id = file.id
    try:
        yield
    except NotFound as error:
        context.session.rollback()  # to see what the database holds now
        find_file(context.session, context.project, file_id, param=param)
        raise NotFound(error.message, param=param) from None


def _task(context: SubmissionContext, request: JobCreate, model: ChosenModel, file: File, format: str) -> str:
    """The request's own, the model spec's, the one the method is for; else inferred from the file's fields."""
    if isinstance(model.spec, specs.TorchSpec):
        return _torch_task(context, request, model.spec, file, format)

    named = getattr(request.model, "task", None)
    if request.task and named and request.task != named:
        message = f"the task is {request.task} here and {named} in the model spec; keep one of them"
        raise InvalidRequest(message, param="task", code="conflict")

    dpo = "preference" if method_type(request) == "dpo" else None
    if task := request.task or model.spec.task or dpo:
        return str(task)
    task = _inferred_task(context, file, format)
    if task in specs.TABULAR.values():
        message = f"this file is a table of numbers, for {task}, which {model.name!r} does not learn: a model of "
        message += "transformers has texts, pictures or both; a table wants a model such as "
        message += '{"type": "torch", "architecture": "mlp", "kwargs": {…}}'
        raise InvalidRequest(message, param="training_file", code="invalid_training_data")
    if task == "text-regression" and isinstance(model.spec, specs.TransformersSpec):
        return _task_of_numbers(context, model, model.spec, file, format)
    return task


def _task_of_numbers(
    context: SubmissionContext, model: ChosenModel, spec: specs.TransformersSpec, file: File, format: str
) -> str:
    """Numbers as labels are classes to a base that classifies texts, or a question; never a new head in silence."""
    classes = classes_of_texts(context, spec, model.base_id)
    if not classes:
        return "text-regression"
    with _on_disk(context.storage, file) as path:
        greatest = formats.greatest_class(path, format)
    if greatest is not None and greatest < classes:
        return "text-classification"

    message = (
        f"the labels are numbers, and not classes 0 to {classes - 1} of {model.name!r}, which classifies texts; name "
        "the task: 'text-classification' where they are classes, 'text-regression' for a new head that gives a number"
    )
    raise InvalidRequest(message, param="task", code="missing_field")


def _torch_task(context: SubmissionContext, request: JobCreate, spec: specs.TorchSpec, file: File, format: str) -> str:
    """A torch spec names regression or classification; whether its examples are pictures is seen from the file."""
    if request.task:
        message = "a torch model's task is 'regression' or 'classification', as `task` of the model spec"
        raise InvalidRequest(message, param="task")

    kind = str(spec.task or "regression")
    if kind == "classification" and format != "csv" and formats.can_read(format):
        with _on_disk(context.storage, file) as path:
            kind = "image-classification" if formats.holds_images(path, format) else kind
    return specs.TABULAR.get(kind, kind)


def _inferred_task(context: SubmissionContext, file: File, format: str) -> str:
    if not formats.can_read(format) or (context.storage.root is None and file.bytes > _INFER_BYTES):
        message = "the task cannot be inferred from this file here; name it in the model spec"
        raise InvalidRequest(message, param="model.task", code="missing_field")
    with _on_disk(context.storage, file) as path:
        return formats.infer_task(path, format)


@dataclass(frozen=True, slots=True)
class _ExamplesReader:
    """Reads files of up to `max_bytes` to their ends, as the task and the data options say."""

    storage: Storage
    data: DataSpec
    task: str
    max_bytes: int
    labels: tuple[str, ...] | None = None

    def read(self, file: File, format: str, *, param: str) -> formats.Summary | None:
        """None for a file that is left to a worker. Raises DataError with lines and fields."""
        if file.bytes > self.max_bytes or not formats.can_read(format):
            return None
        columns = Columns.of(self.data)
        held_out = param == "validation_file"
        with _on_disk(self.storage, file) as path:
            try:
                return formats.validate(
                    path,
                    format=format,
                    task=self.task,
                    columns=columns,
                    labels=self.labels,
                    held_out=held_out,
                    seconds=_INLINE_SECONDS,
                    param=param,
                )
            except formats.OutOfTime:
                return None


def _format(storage: Storage, file: File, *, param: str) -> str:
    with storage.open(file.blob) as source:
        head = source.read(4096)
    try:
        return formats.detect(file.filename, head)
    except DataError as error:
        raise DataError(error.message, param=param) from None


@contextmanager
def _on_disk(storage: Storage, file: File) -> Iterator[Path]:
    """The file's bytes under a path, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="permafrost-") as folder, missing_blob_explained(file.blob):
        yield storage.fetch(file.blob, Path(folder) / "data")
