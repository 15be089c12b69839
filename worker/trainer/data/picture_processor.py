"""One conversation with its pictures through a model's own processor, and which of its tokens carry loss.

A processor writes several tokens in place of each picture's mark and then tokenizes. So the learned spans are marked in
the text by two characters that it does not have; they are taken out again where the processor calls its tokenizer.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worker.trainer.data.batch import IGNORED
from worker.trainer.data.chat_template import Span, unused_characters
from worker.trainer.data.language_example import LanguageExample, learned_tokens
from worker.trainer.data.padded import Tokens
from worker.trainer.data.text import run


@dataclass(frozen=True, slots=True)
class Processed:
    """Tokens with targets; `kinds` are inputs with a number per token, `pictures` those of the pictures."""

    example: LanguageExample
    kinds: dict[str, NDArray[np.int64]]
    pictures: dict[str, Tensor]


class PictureProcessor:
    """Calls the processor of a family. `accepted` are the arguments of the model's forward pass."""

    def __init__(self, processor: Any, *, accepted: Collection[str]) -> None:
        self._tokenizer = _Watched(processor.tokenizer)
        self._processor = copy.copy(processor)
        self._processor.tokenizer = self._tokenizer
        self._accepted = frozenset(accepted)
        #: Whether the family reads a question and its answer, and not a chat: PaliGemma, which has no template.
        self.of_pairs = "suffix" in inspect.signature(type(processor).__call__).parameters

    @property
    def mark(self) -> str | None:
        """What stands for a picture in a text."""
        token = getattr(self._processor, "image_token", None)
        return token if isinstance(token, str) else None

    def is_nested(self, picture: Image.Image) -> bool:
        """Whether the pictures of one text are one row of the inputs, as in Idefics."""
        found = self._processor.image_processor([picture, picture], return_tensors="pt")
        return int(found["pixel_values"].shape[0]) == 1

    def chat(self, text: str, spans: Sequence[Span], pictures: Sequence[Image.Image]) -> Processed:
        """Of a rendered conversation. ValueError or another of the processor's own errors where it refuses it."""
        opened, closed = unused_characters(text)
        marked, last = "", 0
        for start, stop in sorted(spans):
            marked += f"{text[last:start]}{opened}{text[start:stop]}{closed}"
            last = stop
        self._tokenizer.expect(opened, closed)
        outputs = self._called(pictures, text=[marked + text[last:]], return_tensors="pt")
        learned = self._tokenizer.learned
        return self._processed(outputs, learned)

    def pair(self, question: str, answer: str, pictures: Sequence[Image.Image]) -> Processed:
        """Of a question and its answer, which carries loss."""
        self._tokenizer.expect(None, None)
        outputs = self._called(pictures, text=[question], suffix=[answer])
        return self._processed(outputs, np.asarray(outputs["token_type_ids"][0]) == 1)

    def _called(self, pictures: Sequence[Image.Image], **options: Any) -> Any:
        images = {"images": [list(pictures)]} if pictures else {}
        return self._processor(**images, **options, add_special_tokens=False)

    def _processed(self, outputs: Any, learned: NDArray[np.bool_]) -> Processed:
        ids = np.asarray(outputs["input_ids"][0]).astype(np.int32)
        targets = np.where(learned, ids, IGNORED).astype(np.int32)
        kinds, pictures = {}, {}
        for name, value in outputs.items():
            if name in ("input_ids", "attention_mask", "labels") or name not in self._accepted:
                continue
            tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
            if name.endswith("token_type_ids"):
                kinds[name] = tensor[0].numpy().astype(np.int64)
            else:
                pictures[name] = tensor
        return Processed(LanguageExample(Tokens(ids), targets), kinds, pictures)


class _Watched:
    """A tokenizer that takes the marks of spans out of what it tokenizes, and says which tokens are inside."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._marks: tuple[str, str] | None = None
        self.learned: NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def expect(self, opened: str | None, closed: str | None) -> None:
        self._marks = (opened, closed) if opened and closed else None

    def __call__(self, text: Any, *others: Any, **options: Any) -> Any:
        if self._marks is None:
            return run(self._tokenizer, text, *others, **options)
        marked = text[0] if isinstance(text, list) else text
        plain, spans = _without(marked, *self._marks)
        options = {**options, "return_offsets_mapping": True, "verbose": False}
        encoded = run(self._tokenizer, [plain], *others, **options)
        offsets = np.asarray(encoded.pop("offset_mapping"))[0]
        self.learned = np.array(learned_tokens(plain, offsets.tolist(), spans), dtype=bool)
        return encoded


def _without(text: str, opened: str, closed: str) -> tuple[str, list[Span]]:
    """The text without the two marks, and the spans that were between them."""
    borders = [at for at, char in enumerate(text) if char in (opened, closed)]
    shifted = [at - number for number, at in enumerate(borders)]
    plain = text.replace(opened, "").replace(closed, "")
    return plain, list(zip(shifted[::2], shifted[1::2], strict=True))
