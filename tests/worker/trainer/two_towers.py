"""Tiny models that compare pictures with texts, one per family, each with an image processor and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.worker.trainer.tiny import WORDS
from tests.worker.trainer.vision_language import VISION, picture, url

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
END = SPECIAL.index("</s>")
#: Tokens of the longest text.
WIDTH = 24
TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": WIDTH,
    "bos_token_id": 2,
    "eos_token_id": END,
    "pad_token_id": 0,
}
_SIZE = {"height": 16, "width": 16}


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's tiny model and image processor and tokenizer are made."""

    model: Callable[[], Any]
    processor: Callable[[], Any]
    tokenizer: Callable[[], Any]


def save(name: str, folder: Path, *, seed: int = 0) -> Path:
    """The base folder of a family, as its publisher would have saved it."""
    family = FAMILIES[name]
    model = family.model()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    family.processor().save_pretrained(folder)
    family.tokenizer().save_pretrained(folder)
    return folder


def tokenizer(*, masked: bool, ends: bool = True) -> PreTrainedTokenizerFast:
    """Words by their place in a list, with an end token behind each text."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        marks = [("<s>", 2), ("</s>", END)]
        raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    names = ["input_ids", *(["attention_mask"] if masked else [])]
    marks_of = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=names, **marks_of)


def letters() -> Any:
    """As SigLIP 2 has them: texts in lower case, which are all letters here, filled up and without a mask."""
    vocabulary = {letter: index for index, letter in enumerate([*SPECIAL, "▁", *ascii_lowercase])}
    marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return transformers.Siglip2Tokenizer(
        vocab=vocabulary, padding_side="right", model_input_names=["input_ids"], **marks
    )


def rows(count: int = 8) -> list[dict[str, Any]]:
    """Pictures of random pixels with texts of different lengths."""
    return [
        {"text": " ".join(WORDS[(at + step) % len(WORDS)] for step in range(1 + at % 5)), "image": url(picture(at))}
        for at in range(count)
    ]


def _clip() -> Any:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return transformers.CLIPModel(config)


def _siglip() -> Any:
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))


def _siglip2() -> Any:
    vision = {name: value for name, value in VISION.items() if name != "image_size"} | {"num_patches": 16}
    text = TEXT | {"projection_size": 32}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def _pil(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}Pil")(**options)


FAMILIES = {
    "clip": Family(_clip, _pil("CLIPImageProcessor", size=_SIZE, crop_size=_SIZE), lambda: tokenizer(masked=True)),
    "siglip": Family(_siglip, _pil("SiglipImageProcessor", size=_SIZE), lambda: tokenizer(masked=False)),
    "siglip2": Family(_siglip2, _pil("Siglip2ImageProcessor", patch_size=4, max_num_patches=16), letters),
}
