"""What a dry run leaves to a worker, and why: each part of a request that may still be refused."""

from collections.abc import Iterator
from typing import Final

from pydantic import Field

from app.jobs.answers import Answer
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.fit import head_labels
from app.jobs.requests.length import length_of
from app.jobs.requests.submission import CheckedRequest
from app.jsontypes import JsonDict
from app.specs.models import TorchSpec, TransformersSpec

AT_START: Final = "by a worker, before the first step"
#: What only the built model shows, by the hyperparameter that needs it.
_ON_THE_MODEL: Final = {
    "compile": "whether torch compiles this model is seen on the worker's machine",
    "gradient_checkpointing": "whether the model can recompute its activations is seen once it is built",
    "packing": "whether the model keeps packed examples apart is tried on the loaded model",
}


class Unchecked(Answer):
    """A part of the request, or of the estimates, that only a worker or a run can check."""

    what: str = Field(description="The part of the request, or of this answer.")
    why: str
    when: str


def unchecked_parts(
    context: SubmissionContext, checked: CheckedRequest, *, devices: int, read_bytes: int
) -> list[Unchecked]:
    """Everything that a job of this request may still be refused for."""
    parts = (
        *_files(context, checked, read_bytes),
        *_model(checked),
        *_policy(checked),
        *_hyperparameters(checked),
        *_devices(devices),
    )
    return [Unchecked(what=what, why=why, when=AT_START) for what, why in parts]


def _files(context: SubmissionContext, checked: CheckedRequest, read_bytes: int) -> Iterator[tuple[str, str]]:
    examples = checked.examples
    for param, file, summary in zip(
        ("training_file", "validation_file"), examples.files, examples.summaries, strict=True
    ):
        if file is not None and file.pending:
            yield param, "it is fetched, and every line checked, before the job trains"
        elif file is not None and summary is None:
            yield (
                param,
                f"{file.bytes:,} bytes; up to {read_bytes:,} of a format that can be read here are read at once",
            )

    if checked.task in ("causal-lm", "preference", "image-text"):
        yield (
            "training_file",
            "whether max_length leaves something to learn of each example, and the chat template takes it",
        )
    if checked.task in ("image-classification", "image-text", "contrastive-image-text"):
        yield "training_file", "pictures are decoded by a worker"
    if checked.task == "image-text":
        yield "model", "how many tokens pictures are, and whether the processor fits, is seen where the model is"
    if _has_unknown_labels(context, checked):
        yield "validation_file", "it has labels that the training file has not; the model's own label map may have them"


def _has_unknown_labels(context: SubmissionContext, checked: CheckedRequest) -> bool:
    training, validation = checked.examples.summaries
    if training is None or validation is None or training.labels is None:
        return False
    unknown = set(validation.labels or ()) - set(training.labels)
    return bool(unknown) and head_labels(context, checked.chosen, training.labels) is None


def _model(checked: CheckedRequest) -> Iterator[tuple[str, str]]:
    spec = checked.chosen.spec
    if spec.adapter is not None:
        yield "model.adapter", "which modules it goes to, and whether peft supports them, is seen on the loaded model"
    if isinstance(spec, TorchSpec) and spec.architecture != "affine":
        yield "model.kwargs", "only a worker builds this architecture, and tries it on the data"


def _policy(checked: CheckedRequest) -> Iterator[tuple[str, str]]:
    if checked.plan_with_labels is None:
        yield "freeze_policy", _why_no_plan(checked)
        return
    length = length_of(checked.examples, checked.hyperparameters)
    if checked.plan_with_labels.scheduled and (length is None or checked.hyperparameters.packing):
        yield (
            "freeze_policy",
            "whether each scheduled freeze begins before the last step: the number of steps is not known",
        )


def _why_no_plan(checked: CheckedRequest) -> str:
    """Why the tensors that the policy is resolved over are not known."""
    spec, name = checked.chosen.spec, checked.chosen.name
    if not isinstance(spec, TransformersSpec):
        return f"the tensors of {name!r} are not known: only a worker builds this architecture"
    if spec.adapter is not None:
        return f"the adapter adds tensors to those of {name!r}, and only a worker builds it"
    if spec.new_tokens:
        return f"new_tokens resize the embeddings of {name!r}, and only a worker has its tokenizer"
    if checked.chosen.stored is not None:
        return f"the tensors of {name!r} are not known for the task {checked.task}"
    if spec.of_hub:
        return f"the tensors of {name!r} are known once a worker has downloaded it for a first job"
    return (
        f"the tensors of {name!r} are not known for the task {checked.task}; "
        "register the model (POST /v1/models) to have them read once"
    )


def _hyperparameters(checked: CheckedRequest) -> Iterator[tuple[str, str]]:
    options = checked.hyperparameters
    for name, why in _ON_THE_MODEL.items():
        if getattr(options, name):
            yield f"hyperparameters.{name}", why
    if options.optimizer is not None and options.optimizer.name == "muon":
        yield "hyperparameters.optimizer.name", "which matrices lie before the output layer is seen on the loaded model"


def _devices(devices: int) -> Iterator[tuple[str, str]]:
    if devices > 1:
        yield (
            "resources.devices",
            "whether every module keeps the same state on each device is seen on the loaded model",
        )


def unchecked_estimates(time: JsonDict, memory: JsonDict) -> list[Unchecked]:
    """The estimates that are null, with the reason."""
    unchecked = []
    if time["seconds"] is None:
        why = "neither an earlier job on this model nor its tensors and examples show how long it takes"
        unchecked.append(Unchecked(what="estimate.seconds", why=why, when="after a first job"))
    if memory["activations"] is None and memory["total"] is not None:
        why = "what layers keep for the backward pass is known of transformers models with text alone"
        unchecked.append(Unchecked(what="estimate.memory_bytes.activations", why=why, when="while it runs"))
    return unchecked
