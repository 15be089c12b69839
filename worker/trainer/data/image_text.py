"""Conversations with pictures as next-token examples of vision-language models. Only the assistant's tokens carry loss.

Pictures are decoded within the bounds of `images`, and pass through the model's own processor once per example; what
it made is kept while it fits a memory budget, else made again per batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from app.errors import ModelError
from app.files import formats
from app.files.problems import LineProblem, first_line
from worker.trainer.data import chat
from worker.trainer.data.batch import IGNORED, Batch, Encoded
from worker.trainer.data.chat_template import Span, text_of
from worker.trainer.data.images import KEPT_BYTES, UNREADABLE, decode, eight_bit
from worker.trainer.data.language import nothing_before_cut
from worker.trainer.data.language_example import LanguageWriter
from worker.trainer.data.picture_inputs import PictureInputs, one_each, other_size, together
from worker.trainer.data.picture_processor import PictureProcessor, Processed
from worker.trainer.data.rows import ExampleWriter
from worker.trainer.data.sampler import Positions
from worker.trainer.data.text import pad_id, refuse_slow

Row = Mapping[str, Any]
#: Pixels of all pictures of an example together, before they are resized: they are decoded side by side.
MAX_EXAMPLE_PIXELS = 256_000_000
#: What processors raise over a conversation or a picture that they do not take.
REFUSALS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    StopIteration,
)


@dataclass(frozen=True, slots=True)
class Turns:
    """A conversation as text, the spans that are learned, and its pictures as files with their fields in the line."""

    text: str
    spans: tuple[Span, ...]
    pictures: tuple[bytes, ...]
    fields: tuple[str, ...]
    pair: tuple[str, str] | None = None  # for a family that reads a question and its answer


class ImageTextExamples:
    """Token sequences with targets, and the pictures that they speak of."""

    def __init__(self, written: Written, *, encoder: Encoder, pad: int) -> None:
        self.sequences = written.language.finished(pad=pad)
        self._turns, self._kinds = written.turns.finished(), written.kinds.finished()
        self._encoder = encoder
        self._kept = written.kept
        self.one_each = one_each(written.shapes, nested=encoder.nested)
        #: Tokens at the beginning of every example that cannot be cut off: a picture has all of its tokens, or none.
        self.whole = written.whole

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.sequences.tokens.lengths

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, positions: Positions) -> Batch:
        """Rows are known by number where each has one picture of one size, since no input else has a row for each."""
        inputs = self.sequences.tokens.batch(positions)
        width = inputs["input_ids"].shape[1]
        kinds = [self._kinds[int(at)] for at in positions]
        for name in kinds[0]:
            numbers = np.zeros((len(positions), width), dtype=np.int64)
            for row, each in zip(numbers, kinds, strict=True):
                found = np.frombuffer(each[name], dtype=np.int64)
                row[: len(found)] = found
            inputs[name] = torch.from_numpy(numbers)
        inputs |= together([self._pictures(int(at)) for at in positions], nested=self._encoder.nested)

        targets = torch.from_numpy(self.sequences.targets.batch(positions, width))
        weight = int((targets[:, 1:] != IGNORED).sum())
        rows = positions if self.one_each else None
        return Batch(inputs, targets, weight=weight, examples=len(positions), rows=rows)

    def outline(self, positions: Positions) -> Batch:
        return self.batch(positions)

    def _pictures(self, at: int) -> PictureInputs:
        found = self._kept.get(at)
        return self._encoder.processed(Turns(**self._turns[at])).pictures if found is None else found


class Written:
    """The examples of a file, one by one: their tokens and pictures, and the first inputs of pictures as they fit.

    What does not fit in memory is in files of `folder`.
    """

    def __init__(self, folder: Path | None) -> None:
        self.language = LanguageWriter(folder)
        self.turns, self.kinds = ExampleWriter(folder), ExampleWriter(folder)
        self.shapes: list[PictureInputs] = []  # as many tensors as there are shapes, which hold nothing
        self.kept: dict[int, PictureInputs] = {}
        self.whole = 0
        self._shape: dict[tuple[Any, ...], PictureInputs] = {}
        self._left = KEPT_BYTES

    def add(self, turns: Turns, made: Processed, *, whole: int) -> None:
        """`whole` is how many tokens there are up to the end of the last picture."""
        self._left -= sum(tensor.nbytes for tensor in made.pictures.values())
        if self._left >= 0:
            self.kept[len(self.shapes)] = made.pictures
        sizes = tuple((name, tuple(tensor.shape)) for name, tensor in made.pictures.items())
        hollow = {name: torch.empty(shape, device="meta") for name, shape in sizes}
        self.shapes.append(self._shape.setdefault(sizes, hollow))
        self.language.add(made.example)
        self.turns.add(asdict(turns))
        self.kinds.add({name: each.astype(np.int64).tobytes() for name, each in made.kinds.items()})
        self.whole = max(self.whole, whole)


class Encoder:
    """Makes inputs of conversations by one model's processor. `picture_id` is the token that stands for pictures."""

    def __init__(self, processor: PictureProcessor, *, picture_id: int | None) -> None:
        self.processor = processor
        self.picture_id = picture_id
        self.truncated = 0
        self._nested: bool | None = None  # not known before the first picture

    @property
    def nested(self) -> bool:
        return bool(self._nested)

    def processed(self, turns: Turns) -> Processed:
        """Inputs of one conversation. Raises one of `UNREADABLE` or `REFUSALS`."""
        pictures = [eight_bit(decode(each)).convert("RGB") for each in turns.pictures]
        return self._through(turns, pictures)

    def _through(self, turns: Turns, pictures: Sequence[Image.Image]) -> Processed:
        if turns.pair is not None:
            return self.processor.pair(*turns.pair, pictures)
        return self.processor.chat(turns.text, turns.spans, pictures)

    def checked(self, turns: Turns, *, line: int, limit: int) -> Processed | LineProblem:
        """Inputs cut to `limit` tokens, or what is wrong with the line."""
        pictures, problem = _decoded(turns, line)
        if problem is not None:
            return problem
        try:
            if pictures and self._nested is None:
                self._nested = self.processor.is_nested(pictures[0])
            found = self._through(turns, pictures)
        except REFUSALS as error:
            message = f"the model's processor does not take this conversation: {first_line(error)}"
            return LineProblem(line, "messages", "processor_refused", message)
        return self._cut(found, turns, line=line, limit=limit)

    def picture_tokens(self, ids: Any) -> int:
        return 0 if self.picture_id is None else int((ids == self.picture_id).sum())

    def end_of_pictures(self, ids: Any) -> int:
        """How many tokens there are up to the end of the last picture."""
        if self.picture_id is None:
            return 0
        found = np.flatnonzero(ids == self.picture_id)
        return int(found[-1]) + 1 if len(found) else 0

    def _cut(self, found: Processed, turns: Turns, *, line: int, limit: int) -> Processed | LineProblem:
        ids = found.example.tokens.ids
        if turns.pictures and not self.picture_tokens(ids):
            message = "shows pictures, and the processor writes no token of the model's for them: it is another model's"
            return LineProblem(line, "messages", "processor_does_not_fit", message)
        if self.end_of_pictures(ids) > limit:
            message = (
                f"its {len(turns.pictures)} pictures are {self.picture_tokens(ids)} tokens, and they end at token "
                f"{self.end_of_pictures(ids)}, beyond the {limit} that an example may have: show fewer or smaller ones"
            )
            return LineProblem(line, "messages", "too_many_picture_tokens", message)
        example = found.example.cut(limit)
        self.truncated += len(ids) > limit
        if not example.learns:
            return nothing_before_cut(line, "assistant message", limit=limit)
        return Processed(example, {name: each[:limit] for name, each in found.kinds.items()}, found.pictures)


def encode(
    rows: Sequence[Row],
    processor: PictureProcessor,
    tokenizer: Any,
    *,
    picture_id: int | None,
    limit: int,
    lines: Sequence[int],
    param: str,
    folder: Path | None = None,
) -> Encoded[ImageTextExamples]:
    """Encodes rows {"messages"[, "tools"]}, each cut to `limit` tokens, never within or before a picture.

    What does not fit in memory is in files of `folder`. Raises DataError, by line, for what cannot be shown to the
    model or learned from.
    """
    refuse_slow(tokenizer)
    encoder = Encoder(processor, picture_id=picture_id)
    written = Written(folder)
    problems: list[LineProblem] = []
    left_out: Counter[str] = Counter()

    for line, row in zip(lines, rows, strict=True):
        turns = _paired(row, line) if processor.of_pairs else _rendered(row, tokenizer, left_out, line, param)
        made = turns if isinstance(turns, LineProblem) else encoder.checked(turns, line=line, limit=limit)
        if isinstance(turns, LineProblem) or isinstance(made, LineProblem):
            problems.append(made)  # type: ignore[arg-type]
        else:
            written.add(turns, made, whole=encoder.end_of_pictures(made.example.tokens.ids))
    if not problems and (at := other_size(written.shapes, nested=encoder.nested)) is not None:
        message = "its pictures come out of the processor in another size than those above; resize them"
        problems.append(LineProblem(lines[at], "messages", "other_size", message))
    if problems:
        raise formats.refusal(problems, param=param)

    examples = ImageTextExamples(written, encoder=encoder, pad=pad_id(tokenizer))
    return Encoded(examples, encoder.truncated, (*chat.notes_of(left_out, tokenizer), *_counted(examples, encoder)))


def ready_template(processor: PictureProcessor, tokenizer: Any, rows: Sequence[Row]) -> str | None:
    """Gives a tokenizer without a template a plain one that shows pictures. Returns the note to report."""
    if processor.of_pairs or getattr(tokenizer, "chat_template", None):
        return None if processor.of_pairs else chat.ensure_template(tokenizer, rows)
    if processor.mark is None:
        message = "the model has no chat template, and its processor names no token that stands for a picture"
        raise ModelError(message, param="model", code="no_chat_template")
    tokenizer.chat_template = PLAIN_TEMPLATE.replace("PICTURE", processor.mark)
    return "the model has no chat template; messages are written as 'Role: content' lines: do the same at inference"


PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}PICTURE{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _rendered(row: Row, tokenizer: Any, left_out: Counter[str], line: int, param: str) -> Turns:
    pictures = _pictures(row)
    shown = [{**message, "content": _without_files(message.get("content"))} for message in row["messages"]]
    with chat.refused_by_template(tokenizer, line=line, param=param):
        rendered = chat.render(shown, tokenizer, tools=row.get("tools"))
    left_out += rendered.left_out
    files, fields = zip(*pictures, strict=True) if pictures else ((), ())
    return Turns(rendered.text, tuple(rendered.spans), files, fields)


def _paired(row: Row, line: int) -> Turns | LineProblem:
    """A question about pictures and its answer, for a family that was not trained on chats."""
    messages = row["messages"]
    if [message["role"] for message in messages] != ["user", "assistant"] or "tools" in row:
        message = "this model reads one question and its answer: a message of the user, and one of the assistant"
        return LineProblem(line, "messages", "unsupported_conversation", message)
    pictures = _pictures(row)
    if not pictures:
        message = "this model always reads a picture, and the message of the user shows none"
        return LineProblem(line, "messages[0].content", "missing_picture", message)
    question, answer = (text_of(message["content"]) for message in messages)
    files, fields = zip(*pictures, strict=True)
    return Turns("", (), files, fields, pair=("<image>" * len(files) + question, answer))


def _pictures(row: Row) -> list[tuple[bytes, str]]:
    """The files of a conversation's pictures, with the field of each."""
    parts = (part for message in row["messages"] for part in message.get("content") or ())
    return [(part["image"], part["name"]) for part in parts if part["type"] == "image"]


def _without_files(content: Any) -> Any:
    """The parts as templates read them: that there is a picture, and not which."""
    return [{"type": "image"} if part["type"] == "image" else part for part in content] if content else content


def _decoded(turns: Turns, line: int) -> tuple[list[Image.Image], LineProblem | None]:
    found: list[Image.Image] = []
    pixels = 0
    for data, field in zip(turns.pictures, turns.fields, strict=True):
        try:
            picture = eight_bit(decode(data)).convert("RGB")
        except UNREADABLE as error:
            message = f"the picture in '{field}' cannot be decoded: {first_line(error)}"
            return [], LineProblem(line, field, "corrupt_image", message)
        found.append(picture)
        pixels += picture.width * picture.height
        if pixels > MAX_EXAMPLE_PIXELS:
            message = f"up to '{field}' its pictures have {pixels:,} pixels, and {MAX_EXAMPLE_PIXELS:,} are read"
            return [], LineProblem(line, field, "too_many_pixels", message)
    return found, None


def _counted(examples: ImageTextExamples, encoder: Encoder) -> tuple[str, ...]:
    """How much of the examples pictures are, for the job's events."""
    tokens = np.array([encoder.picture_tokens(each.tokens.ids) for each in examples.sequences])
    if not tokens.any():
        return ("no example shows a picture: the model's tower and projector take no part in this run",)
    share = tokens.sum() / examples.lengths.sum()
    return (f"pictures are {share:.0%} of all tokens, at most {tokens.max():,} of an example",)
