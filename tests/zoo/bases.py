"""Base folders of every architecture that transformers maps to a task that a job can have, each tiny."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import ImageGPTImageProcessorPil, Siglip2ImageProcessorPil, ViTImageProcessor
from transformers.models.auto import modeling_auto

from tests.worker.trainer import tiny
from tests.zoo.changes import CHANGES
from tests.zoo.sizes import tiny_config

MAPPINGS = {
    "causal-lm": "CAUSAL_LM",
    "text-classification": "SEQUENCE_CLASSIFICATION",
    "token-classification": "TOKEN_CLASSIFICATION",
    "image-classification": "IMAGE_CLASSIFICATION",
}
#: Where the class is looked up whose weights are published under a task's models.
PUBLISHED = {
    "causal-lm": ("IMAGE_TEXT_TO_TEXT", "CAUSAL_LM"),
    "text-classification": ("IMAGE_TEXT_TO_TEXT", "CAUSAL_LM", "MASKED_LM"),
    "token-classification": ("IMAGE_TEXT_TO_TEXT", "CAUSAL_LM", "MASKED_LM"),
    "image-classification": (),
}
#: Where that class has a part of the model alone, such as the decoder of BART.
WHOLE = {"bart", "bigbird_pegasus", "mbart", "mvp", "plbart"}
#: Where a classifier's body has sizes of its own.
CLASSIFIERS = {("image-classification", "perceiver")}


@dataclass(frozen=True, order=True)
class Entry:
    """An architecture under one task: a line of the table."""

    task: str
    kind: str

    @property
    def model_class(self) -> str:
        """The name of the class that transformers trains for the task."""
        return _first(_mapping(MAPPINGS[self.task])[self.kind])


def entries() -> Iterator[Entry]:
    """Every architecture of the tasks, in order."""
    for task, mapping in MAPPINGS.items():
        for kind in sorted(_mapping(mapping)):
            yield Entry(task, kind)


def save(entry: Entry, folder: Path, *, seed: int = 0) -> Path:
    """Writes the model, with noise in every parameter and float buffer, so that no two tensors are alike."""
    config = tiny_config(entry.kind, CHANGES.get(entry.kind, {}))
    torch.manual_seed(seed)
    model = saved_class(entry)(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + (0.5 if name.endswith("running_var") else 0.01))
    model.save_pretrained(folder)
    write_companions(entry, folder)
    return folder


def saved_class(entry: Entry) -> Any:
    """The class whose weights make the base: a published one where there is one, else the body alone."""
    if (entry.task, entry.kind) in CLASSIFIERS:
        return getattr(transformers, entry.model_class)
    of_parts = entry.task == "text-classification" and entry.kind in WHOLE
    for mapping in () if of_parts else PUBLISHED[entry.task]:
        name = _mapping(mapping).get(entry.kind)
        if name is not None:
            return getattr(transformers, _first(name))
    name = modeling_auto.MODEL_MAPPING_NAMES.get(entry.kind)
    return getattr(transformers, _first(name) if name else entry.model_class)


def write_companions(entry: Entry, folder: Path) -> None:
    """Writes a tokenizer or an image processor."""
    if entry.task == "image-classification":
        side = {"height": 32, "width": 32}
        if entry.kind == "siglip2":
            Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
            return
        if entry.kind == "imagegpt":
            clusters = [[shade / 8 - 1] * 3 for shade in range(16)]
            ImageGPTImageProcessorPil(clusters=clusters, size={"height": 6, "width": 6}).save_pretrained(folder)
            return
        ViTImageProcessor(size=side, crop_size=side).save_pretrained(folder)
    elif entry.task == "causal-lm":
        tiny.tokenizer(folder, ("<unk>", "<s>", "</s>"), bert_like=False)
    else:
        tiny.tokenizer(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), bert_like=True)


def _mapping(name: str) -> dict[str, Any]:
    return dict(getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES"))


def _first(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]
