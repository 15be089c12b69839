"""Tasks by name: how the rows of each become examples, and the objective that is minimised."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.modeling_layers import GenericForSequenceClassification

from app.errors import InvalidRequest
from app.files import formats
from app.specs.data import DataSpec
from app.specs.fit import refuse_more_labels, refuse_regression_labels
from app.specs.models import TABULAR, ModelSpec, TransformersSpec
from app.specs.rules import TOKENIZED
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data import (
    captioned,
    chat,
    image_text,
    images,
    language,
    preference,
    reading,
    tabular,
    text,
    token_check,
)
from worker.trainer.data.batch import Encoded, Examples
from worker.trainer.data.picture_processor import PictureProcessor
from worker.trainer.data.reading import DataSplits
from worker.trainer.data.table import Row
from worker.trainer.models import model_config
from worker.trainer.models.loading import Loaded
from worker.trainer.models.sentence import SentenceHead
from worker.trainer.training.hyperparameters import ResolvedHyperparameters
from worker.trainer.training.objectives import (
    Classification,
    Contrastive,
    ImageTextContrastive,
    LanguageModelling,
    Objective,
    Preference,
    Ranking,
    Regression,
    TokenClassification,
)


@dataclass(frozen=True, slots=True)
class EncodedData:
    """A job's examples. `notes` become events: what was cut, and what the tokenizer lacked; `warnings` as well."""

    training: Examples
    validation: Examples | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def name_of(spec: ModelSpec, asked: str | None, *, workspace: Path, data: DataSpec) -> str:
    """The task: as requested, else as the model spec says, else inferred from the training file's fields."""
    task = asked or spec.task
    if task in formats.TASKS:
        return str(task)
    if task is not None and task not in TABULAR:
        raise InvalidRequest(f"no task is called {task!r}; there are {', '.join(formats.TASKS)}", param="task")
    path = workspace / reading.training_path(data)
    form = data.format or formats.detect(path.name, reading.head(path))
    inferred = formats.infer_task(path, form) if task != "regression" else None
    if task == "classification":
        return inferred if inferred == "image-classification" else "tabular-classification"
    return TABULAR[task] if task else str(inferred)


def read(order: WorkOrder, workspace: Workspace, *, task: str) -> DataSplits:
    """The job's files as rows. A base that already classifies keeps its label map where it holds every label."""
    known_labels = (
        model_config.label_names(workspace.base)
        if isinstance(order.model, TransformersSpec) and task in formats.CLASSES
        else None
    )
    fraction = float(order.hyperparameters.validation_fraction or 0)
    source = reading.read(
        workspace.root, order.data, task=task, known_labels=known_labels, fraction=fraction, seed=order.seed
    )
    refuse_regression_labels(task, order.model.num_labels)
    if source.labels is not None:
        refuse_more_labels(len(source.labels), order.model.num_labels)
    return source


def objective(task: str, settings: ResolvedHyperparameters, *, head: SentenceHead | None = None) -> Objective:
    """What the task minimises. `head` makes one vector of a text for the task `pairs`."""
    smoothing = settings.label_smoothing
    if task in ("tabular-regression", "text-regression"):
        return Regression()
    if task == "text-ranking":
        return Ranking()
    if task in ("tabular-classification", "text-classification", "image-classification"):
        return Classification(label_smoothing=smoothing)
    if task == "token-classification":
        return TokenClassification(label_smoothing=smoothing)
    if task in ("causal-lm", "image-text"):
        return LanguageModelling(label_smoothing=smoothing)
    if task == "pairs":
        return Contrastive(temperature=settings.temperature, head=head)
    if task == "contrastive-image-text":
        return ImageTextContrastive()
    if task == "preference":
        return Preference(beta=settings.beta)
    raise InvalidRequest(f"no training is known for the task {task!r}", param="task")


def encode(
    task: str, source: DataSplits, loaded: Loaded, *, asked_length: int | None, packed: bool = False
) -> EncodedData:
    """Encode both parts of the data for this model; notes count cut examples and name a missing pad token."""
    notes = ready_tokenizer(loaded, source.training, task=task) if task in TOKENIZED else []
    limit = text.longest(loaded.tokenizer, loaded.model, asked_length) if task in TOKENIZED else 0
    parts: list[Examples | None] = []
    for rows, lines, param in (
        (source.training, source.training_lines, "training_file"),
        (source.validation, source.validation_lines, "validation_file"),
    ):
        if not rows:
            parts.append(None)
            continue

        part = {"lines": lines, "param": param, "folder": source.folder}
        encoded = _encode(task, rows, loaded, source=source, limit=limit, packed=packed, part=part)
        cut = encoded.truncated
        if cut:
            notes.append(f"{cut} of {len(rows)} examples of the {param} are longer than {limit} tokens and were cut")
        notes += [f"{param}: {note}" for note in encoded.notes]
        if task in TOKENIZED:
            notes += token_check.check(encoded.examples, loaded.model, loaded.tokenizer, lines=lines, param=param)
        parts.append(encoded.examples)

    assert parts[0] is not None
    return EncodedData(parts[0], parts[1], tuple(notes), source.warnings)


def _encode(
    task: str,
    rows: Sequence[Row],
    loaded: Loaded,
    *,
    source: DataSplits,
    limit: int,
    packed: bool,
    part: dict[str, Any],
) -> Encoded[Examples]:
    if task.startswith("tabular"):
        return Encoded(tabular.encode(rows, classes=source.labels is not None, dtype=_float_dtype(loaded.model)))
    if task == "image-classification":
        return Encoded(images.encode(rows, pixels=_pixels(loaded), lines=part["lines"], param=part["param"]))
    if task == "contrastive-image-text":
        return captioned.encode(rows, loaded.tokenizer, loaded.model, pixels=_pixels(loaded), limit=limit, **part)
    if task == "token-classification":
        return text.encode_words(rows, loaded.tokenizer, limit=limit, folder=source.folder)
    if task == "causal-lm":
        return language.encode(rows, loaded.tokenizer, limit=limit, packed=packed, **part)
    if task == "image-text":
        return image_text.encode(
            rows,
            _picture_processor(loaded),
            loaded.tokenizer,
            picture_id=_picture_id(loaded),
            limit=limit,
            **part,
        )
    if task == "preference":
        return preference.encode(rows, loaded.tokenizer, limit=limit, **part)
    if task == "pairs":
        return text.encode_pairs(rows, loaded.tokenizer, limit=limit, folder=source.folder)
    if task == "text-ranking":
        return text.encode_ranked(rows, loaded.tokenizer, limit=limit, folder=source.folder)
    regression = task == "text-regression"
    return text.encode_texts(rows, loaded.tokenizer, limit=limit, regression=regression, folder=source.folder)


def ready_tokenizer(loaded: Loaded, rows: Sequence[Row], *, task: str) -> list[str]:
    """A pad token and a chat template where they are missing; what was done."""
    tokenizer, notes = loaded.tokenizer, []
    config: Any = getattr(loaded.model, "config", None)
    if tokenizer.pad_token_id is None:
        stand_in = _pad_token_of(config, tokenizer) or tokenizer.eos_token or tokenizer.unk_token
        if stand_in is None:
            message = "the tokenizer has no pad token, and no end or unknown token that could stand in for it"
            raise InvalidRequest(message, param="model")
        tokenizer.pad_token = stand_in
        notes.append(f"the tokenizer has no pad token; {stand_in!r} is used for padding")
    if config is not None and getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    if task in ("text-classification", "text-regression", "text-ranking"):
        notes += _align_pad_token(loaded.model, pad=tokenizer.pad_token_id)
    if task == "image-text":
        template = image_text.ready_template(_picture_processor(loaded), tokenizer, rows)
    else:
        template = chat.ensure_template(tokenizer, rows)
    return notes + ([template] if template else [])


def _pad_token_of(config: Any, tokenizer: Any) -> str | None:
    """The pad token that the model's configuration names, where the tokenizer has it."""
    number = getattr(config, "pad_token_id", None)
    if not isinstance(number, int) or not 0 <= number < len(tokenizer):
        return None
    token = tokenizer.convert_ids_to_tokens(number)
    return token if isinstance(token, str) else None


def _align_pad_token(model: Any, *, pad: int) -> list[str]:
    """Gives a classifier over a decoder the pad token of the batches; its result has it, too.

    Such a model reads a text at its last token that is not its configuration's pad token. With another one in the
    batches it would read padding.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, GenericForSequenceClassification):
        return []
    config = base.config.get_text_config()
    before, config.pad_token_id = getattr(config, "pad_token_id", None), pad
    if before in (None, pad):
        return []
    return [f"the pad token of the model's configuration was {before}; it is {pad} now, as the tokenizer's"]


def _pixels(loaded: Loaded) -> images.Pixels:
    """How pictures become this model's inputs."""
    plain = loaded.processor is None
    channels = _input_channels(loaded.model)
    name = "x" if plain and not hasattr(loaded.model, "config") else "pixel_values"
    return images.Pixels(
        processor=loaded.processor, channels=channels, input_name=name, accepted=_arguments(loaded.model)
    )


def _picture_processor(loaded: Loaded) -> PictureProcessor:
    """The model's processor; a template that only the processor has becomes the tokenizer's."""
    tokenizer, processor = loaded.tokenizer, loaded.processor
    if not getattr(tokenizer, "chat_template", None) and getattr(processor, "chat_template", None):
        tokenizer.chat_template = processor.chat_template
    return PictureProcessor(processor, accepted=_arguments(loaded.model))


def _picture_id(loaded: Loaded) -> int | None:
    """The token that the model itself replaces by what it sees."""
    config: Any = loaded.model.config
    names = ("image_token_id", "image_token_index")
    return next((int(found) for name in names if (found := getattr(config, name, None)) is not None), None)


def _float_dtype(model: nn.Module) -> torch.dtype:
    return next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)


def _arguments(model: nn.Module) -> tuple[str, ...]:
    """The arguments of the model's forward pass; of the plain model where an adapter wraps it."""
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return tuple(inspect.signature(plain.forward).parameters)


def _input_channels(model: nn.Module) -> int:
    return next((each.in_channels for each in model.modules() if isinstance(each, nn.Conv2d)), 3)
