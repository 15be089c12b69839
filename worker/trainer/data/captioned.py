"""Pictures with a text each, for models that compare the two, such as CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from app.errors import ModelError
from worker.trainer.data import text
from worker.trainer.data.batch import Batch, Encoded
from worker.trainer.data.images import ImageExamples, Pixels
from worker.trainer.data.padded import PaddedTokens, Tokens
from worker.trainer.data.rows import Column
from worker.trainer.data.sampler import Positions

Row = Mapping[str, Any]
#: Families whose text tower reads a text at its last position, so that all texts have to be equally long.
LAST_POSITION = ("siglip", "siglip2")
#: What the configuration of early CLIP models says their end token is. Such a model reads a text at its largest id.
LARGEST_ID = 2


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a family takes its texts: all `width` tokens wide, or as wide as the longest; with an attention mask or not.

    A family that was trained without a mask reads its padding.
    """

    width: int | None
    masked: bool
    left: bool = False  # whether texts are filled up at their beginnings


class CaptionedPictures:
    """Pictures and their texts. In a batch, the texts of the other pictures are a picture's negatives."""

    def __init__(self, texts: PaddedTokens, pictures: ImageExamples, *, pad: int, form: TextForm) -> None:
        self.texts = texts
        self.pictures = pictures
        self._form = form
        self._pad = pad

    lengths = None  # sorting by length would choose the negatives by length

    @property
    def one_width(self) -> bool:
        """Whether all rows of tokens are equally wide, padding included."""
        return self._form.width is not None

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, positions: Positions) -> Batch:
        return self._joined(self.texts.batch(positions), self.pictures.batch(positions), positions)

    def outline(self, positions: Positions) -> Batch:
        return self._joined(self.texts.outline(positions), self.pictures.outline(positions), positions)

    def _joined(self, tokens: dict[str, Tensor], pictures: Batch, positions: Positions) -> Batch:
        """Target i is the text of picture i."""
        lengths = self.texts.lengths[positions].tolist()
        if not self._form.masked:
            del tokens["attention_mask"]
        if self._form.width is not None:
            tokens = {name: self._widened(name, each, lengths) for name, each in tokens.items()}
        inputs, count = {**tokens, **pictures.inputs}, len(positions)
        return Batch(inputs, torch.arange(count), weight=count, examples=count, rows=positions)

    def _widened(self, name: str, tensor: Tensor, lengths: list[int]) -> Tensor:
        """Each row filled up to the family's width, where the tokenizer fills."""
        assert self._form.width is not None
        fill = self._pad if name == "input_ids" else 0
        if not self._form.left:
            return F.pad(tensor, (0, self._form.width - tensor.shape[1]), value=fill)
        rows = zip(tensor, lengths, strict=True)
        return torch.stack([F.pad(row[:own], (self._form.width - own, 0), value=fill) for row, own in rows])


def encode(
    rows: Sequence[Row],
    tokenizer: Any,
    model: Any,
    *,
    pixels: Pixels,
    limit: int,
    lines: Sequence[int],
    param: str,
    folder: Path | None = None,
) -> Encoded[CaptionedPictures]:
    """Encodes rows {"text", "image"}, texts cut to `limit` tokens; `lines` has the line of each row in its file.

    ModelError for a model without a contrastive loss of its own, and for a tokenizer that does not end texts where the
    model reads them. DataError for pictures that cannot be decoded.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "return_loss" not in pixels.accepted:
        message = f"{type(plain).__name__} has no contrastive loss of its own; models such as CLIP and SigLIP have"
        raise ModelError(message, param="task", code="unsupported_model")

    texts, truncated = text.encode_fields(rows, ("text",), tokenizer, limit=limit, folder=folder)
    _refuse_ends(texts, plain, tokenizer)
    form = TextForm(
        width=limit if plain.config.model_type in LAST_POSITION else None,
        masked="attention_mask" in tokenizer.model_input_names,
        left=tokenizer.padding_side == "left",
    )
    pictures = ImageExamples(Column(rows, "image"), range(len(rows)), pixels=pixels)
    pictures.check(lines=lines, param=param)
    return Encoded(CaptionedPictures(texts, pictures, pad=text.pad_id(tokenizer), form=form), truncated)


def _refuse_ends(texts: Sequence[Tokens], model: Any, tokenizer: Any) -> None:
    """Refuses a tokenizer whose texts a CLIP model does not read where they end.

    Without its end token in a text the model reads the first token, which is the same for all texts.
    """
    end = getattr(getattr(model, "text_model", None), "eos_token_id", None)
    if end is None:
        return
    if end == LARGEST_ID:
        where = "its largest id"
        fits = all(each.ids.argmax() == len(each.ids) - 1 and each.ids[-1] >= text.pad_id(tokenizer) for each in texts)
    else:
        where = f"its end token, the id {end}"
        fits = all(end in each.ids for each in texts)
    if not fits:
        message = (
            f"the model reads a text at {where}, which is not where {type(tokenizer).__name__} ends it; take the "
            "tokenizer that belongs to the model, without new tokens"
        )
        raise ModelError(message, param="model", code="tokenizer_does_not_fit")
