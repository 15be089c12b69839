"""Chat, prompt and completion, plain text to next-token examples. Loss is on completions alone: prompts are context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jinja2 import TemplateError

from app.files import formats
from app.files.lines import LineProblem
from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.data.bounds import OutOfBounds, bounded
from worker.trainer.data.language_example import LanguageExample
from worker.trainer.data.packing import pack
from worker.trainer.data.sampler import Positions
from worker.trainer.data.text import Tokens, pad_id, pad_targets, pad_tokens

Row = Mapping[str, Any]
Span = tuple[int, int]

# For a tokenizer that brings none: no special tokens that its vocabulary would have to know.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
# For one rendering of one example, which takes milliseconds. A template is a program that came with the model.
TEMPLATE_SECONDS = 10.0
TEMPLATE_BYTES = 512 << 20
MAX_RENDERED = 4_000_000  # characters: a template may repeat what it is given


class LanguageExamples:
    """Targets are not shifted: they equal the input where loss is carried. `packed`: examples share rows."""

    def __init__(self, sequences: Sequence[LanguageExample], *, pad: int, packed: bool = False) -> None:
        self.sequences = sequences
        self.pad = pad
        self.packed = packed
        self.lengths = np.array([len(each.tokens.ids) for each in sequences], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, positions: Positions) -> Batch:
        chosen = [self.sequences[at] for at in positions]
        if self.packed:
            inputs, targets = pack(chosen, pad=self.pad)
        else:
            inputs = pad_tokens([each.tokens for each in chosen], pad=self.pad)
            targets = pad_targets([each.targets for each in chosen], width=inputs["input_ids"].shape[1])
        weight = int((targets[:, 1:] != IGNORED).sum())  # nothing comes before the first token
        tokens = int(self.lengths[positions].sum())
        rows = None if self.packed else positions
        return Batch(inputs, targets, weight=weight, examples=len(chosen), tokens=tokens, rows=rows)


def encode(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    limit: int,
    packed: bool = False,
    lines: Sequence[int] = (),
    param: str = "training_file",
) -> tuple[LanguageExamples, int]:
    """Rows {"messages"}, {"prompt", "completion"} or {"text"}, and how many were cut to `limit` tokens.

    An example whose completion lies wholly behind the cut has nothing to learn from and is refused.
    """
    found: list[LanguageExample] = []
    truncated = 0
    problems: list[LineProblem] = []
    for line, row in zip(lines or range(1, len(rows) + 1), rows, strict=True):
        text, spans = _rendered(row, tokenizer, line=line, param=param)
        sequence = _encoded(text, spans, tokenizer, chat="messages" in row)
        truncated += len(sequence.tokens.ids) > limit
        cut = LanguageExample(Tokens(sequence.tokens.ids[:limit]), sequence.targets[:limit])
        if not (cut.targets[1:] != IGNORED).any():
            problems.append(nothing_to_learn(line, "completion", limit=limit))
        found.append(cut)
    if problems:
        raise formats.refusal(problems, param=param)
    return LanguageExamples(found, pad=pad_id(tokenizer), packed=packed), truncated


def nothing_to_learn(line: int, what: str, *, limit: int) -> LineProblem:
    message = f"has no {what} within the first {limit} tokens, so nothing to learn from"
    return LineProblem(line, None, "nothing_to_learn", message)


def ensure_template(tokenizer: Any, rows: Sequence[Row]) -> str | None:
    """Give a tokenizer without a chat template the plain one when the rows are chats; the note to report, if any."""
    if "messages" not in rows[0] or getattr(tokenizer, "chat_template", None):
        return None
    tokenizer.chat_template = PLAIN_TEMPLATE
    return (
        "the tokenizer has no chat template; messages are written as 'Role: content' lines, and so they must be at use"
    )


def conversation_and_answer(messages: Sequence[Row], answer: str, tokenizer: Any) -> LanguageExample:
    """A conversation with the assistant's next message; loss on that message alone."""
    whole, before = (
        _render([*messages, {"role": "assistant", "content": answer}], tokenizer, prompt=False),
        _render(messages, tokenizer, prompt=True),
    )
    if not whole.startswith(before):
        raise ValueError("it writes the conversation differently once the answer is there")
    return _encoded(whole, [(len(before), len(whole))], tokenizer, chat=True)


def prompt_and_answer(prompt: str, answer: str, tokenizer: Any) -> LanguageExample:
    """A prompt with its completion and the end token; loss on the completion."""
    return _encoded(prompt + answer, [(len(prompt), len(prompt) + len(answer))], tokenizer, chat=False)


@contextmanager
def refused_by_template(*, line: int, param: str) -> Iterator[None]:
    """Turns a chat template's complaint into one about the example."""
    try:
        yield
    except (OutOfBounds, MemoryError) as error:
        what = f"{TEMPLATE_SECONDS:g} seconds" if isinstance(error, OutOfBounds) else f"{TEMPLATE_BYTES:,} bytes"
        message = f"the tokenizer's chat template takes more than {what} for these messages"
        raise formats.refusal([LineProblem(line, "messages", "template_too_costly", message)], param=param) from None
    except (TemplateError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        message = f"the tokenizer's chat template refused these messages: {str(error)[:200]}"
        raise formats.refusal([LineProblem(line, "messages", "template_refused", message)], param=param) from None


def _rendered(row: Row, tokenizer: Any, *, line: int, param: str) -> tuple[str, list[Span]]:
    """The example as one text, and the spans of characters that carry loss."""
    if "text" in row:
        return row["text"], [(0, len(row["text"]))]
    if "prompt" in row:
        start = len(row["prompt"])
        return row["prompt"] + row["completion"], [(start, start + len(row["completion"]))]
    with refused_by_template(line=line, param=param):
        return _chat(row["messages"], tokenizer)


def _chat(messages: Sequence[Row], tokenizer: Any) -> tuple[str, list[Span]]:
    """The whole conversation, with a span for each message of the assistant.

    A span is found by rendering up to the message. Templates that rewrite earlier turns (some drop old reasoning) break
    that for those turns; then only turns whose beginning is also the beginning of the whole text carry loss.
    """
    whole = _render(messages, tokenizer, prompt=False)
    spans = []
    for at, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        before = _render(messages[:at], tokenizer, prompt=True) if at else ""
        after = _render(messages[: at + 1], tokenizer, prompt=False)
        if whole.startswith(after) and after.startswith(before):
            spans.append((len(before), len(after)))
    return whole, spans


def _render(messages: Sequence[Row], tokenizer: Any, *, prompt: bool) -> str:
    said = [{"role": each["role"], "content": each["content"]} for each in messages]
    with bounded(seconds=TEMPLATE_SECONDS, nbytes=TEMPLATE_BYTES):
        text: str = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=prompt)
    if len(text) > MAX_RENDERED:
        raise ValueError(f"it made {len(text)} characters of one example")
    return text


def _encoded(text: str, spans: Sequence[Span], tokenizer: Any, *, chat: bool) -> LanguageExample:
    """Token ids, with a target where a token begins within a span. A chat's template writes its own special tokens."""
    encoded = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True, verbose=False)
    ids = list(encoded["input_ids"])
    carries = [any(start <= a < stop and b > a for start, stop in spans) for a, b in encoded["offset_mapping"]]
    end = tokenizer.eos_token_id
    if not chat and end is not None and ids[-1] != end:  # the model has to learn where to stop
        ids.append(end)
        carries.append(True)
    array = np.array(ids, dtype=np.int32)
    return LanguageExample(Tokens(array), np.where(np.array(carries), array, IGNORED).astype(np.int64))
