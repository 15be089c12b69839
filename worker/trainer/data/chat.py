"""Chat templates: a conversation as one text, and the spans of characters in it that the assistant wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from app.files import formats
from app.files.problems import LineProblem
from worker.trainer.data.bounds import OutOfBounds, bounded

Message = Mapping[str, Any]
Span = tuple[int, int]

#: For a tokenizer without a template. It needs no special tokens, which the vocabulary might not have.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
#: Limits of one rendering, which usually takes milliseconds. A template is a program that came with the model.
TEMPLATE_SECONDS = 10.0
TEMPLATE_BYTES = 512 << 20
MAX_RENDERED = 4_000_000  # characters: a template may repeat its input
#: The date that templates see as today's (Llama 3's default): a job that resumes tomorrow trains on the same text.
TODAY = datetime(2024, 7, 26, tzinfo=UTC)

TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError)


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text. `spans` are learned; `hidden` counts assistant messages that the text does not show."""

    text: str
    spans: list[Span]
    hidden: int = 0


def render(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Any] | None = None) -> RenderedChat:
    """The whole conversation, with the spans of the assistant's messages (all but those with weight 0).

    Spans are the template's own `{% generation %}` blocks where it has them, else they are found by comparing
    renderings. Raises one of `TEMPLATE_ERRORS`, OutOfBounds or MemoryError where the template cannot render.
    """
    template = _Template(tokenizer, tools)
    text, marked = template.rendered_with_marks(messages)
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    spans: list[Span] = []
    hidden = 0

    for at in turns:
        if messages[at].get("weight") == 0:
            continue
        if marked and len(turns) == len(marked):
            spans.append(marked[turns.index(at)])
            continue
        span = template.span(messages, at, text)
        if span is None:
            hidden += 1
        elif marked:
            spans += [mark for mark in marked if span[0] <= mark[0] < span[1]]
        else:
            spans.append(span)
    return RenderedChat(text, spans, hidden)


def render_answer(messages: Sequence[Message], answer: str, tokenizer: Any) -> RenderedChat:
    """A conversation and the assistant's next message, the only one that is learned. ValueError where it is hidden."""
    template = _Template(tokenizer, None)
    conversation = [*messages, {"role": "assistant", "content": answer}]
    text, marked = template.rendered_with_marks(conversation)
    span = marked[-1] if marked else template.span(conversation, len(messages), text)
    if span is None:
        raise ValueError("it does not show the answer")
    return RenderedChat(text, [span])


def ensure_template(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Gives a tokenizer the plain template where rows are chats and it has none. Returns the note to report."""
    if "messages" not in rows[0]:
        return None
    template = getattr(tokenizer, "chat_template", None)
    if template:
        if "strftime_now" not in str(template):
            return None
        return (
            f"the chat template writes today's date; in training it is {TODAY:%d %b %Y}, so that runs can be repeated"
        )

    tokenizer.chat_template = PLAIN_TEMPLATE
    return "the tokenizer has no chat template; messages are written as 'Role: content' lines: do the same at inference"


@contextmanager
def refused_by_template(*, line: int, param: str) -> Iterator[None]:
    """Turns a chat template's error into a DataError about the example in `line`."""
    try:
        yield
    except (OutOfBounds, MemoryError) as error:
        limit = f"{TEMPLATE_SECONDS:g} seconds" if isinstance(error, OutOfBounds) else f"{TEMPLATE_BYTES:,} bytes"
        message = f"the tokenizer's chat template takes more than {limit} for these messages"
        raise formats.refusal([LineProblem(line, "messages", "template_too_costly", message)], param=param) from None
    except TEMPLATE_ERRORS as error:
        message = f"the tokenizer's chat template refused these messages: {str(error)[:200]}"
        raise formats.refusal([LineProblem(line, "messages", "template_refused", message)], param=param) from None


class _Template:
    """The chat template of one tokenizer, rendered with limits and a fixed date."""

    def __init__(self, tokenizer: Any, tools: Sequence[Any] | None) -> None:
        self.tokenizer = tokenizer
        self.tools = list(tools) if tools else None
        self.has_marks = "{% generation" in (source := str(tokenizer.chat_template)) or "{%- generation" in source

    def rendered(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        text: str = self._render(messages, add_generation_prompt=prompt)[0][0]
        return _checked(text)

    def rendered_with_marks(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text, and the spans of the template's `{% generation %}` blocks, if it has any."""
        if not self.has_marks:
            return self.rendered(messages), []
        texts, marks = self._render(messages, return_assistant_tokens_mask=True)
        return _checked(texts[0]), [(start, stop) for start, stop in marks[0] if start < stop]

    def span(self, messages: Sequence[Message], at: int, text: str) -> Span | None:
        """Where message `at`, with its end mark, is in the rendered conversation; None where it is not shown."""
        return self._span_by_prefix(messages, at, text) or self._span_by_replacing(messages, at, text)

    def _span_by_prefix(self, messages: Sequence[Message], at: int, text: str) -> Span | None:
        """From where the generation prompt ends to where the conversation up to this message ends.

        None where the template writes a conversation otherwise once it goes on: `<s>assistant: <think>` as the prompt,
        and `<s>assistant: answer` in the history.
        """
        try:
            before = self.rendered(messages[:at], prompt=True) if at else ""
            after = self.rendered(messages[: at + 1])
        except TEMPLATE_ERRORS:  # some refuse a conversation that has no user message yet
            return None
        if not (text.startswith(after) and after.startswith(before)) or len(before) == len(after):
            return None
        return len(before), len(after)

    def _span_by_replacing(self, messages: Sequence[Message], at: int, text: str) -> Span | None:
        """The part of the text that changes when the message's content is another.

        text     `user: hi <end> assistant: hello <end> user: bye`
        replaced `user: hi <end> assistant: X <end> user: bye`     -> `hello`, and the end mark that follows it
        """
        mark = next(char for char in map(chr, range(0xE000, 0xF8FF)) if char not in text)
        try:
            replaced = self.rendered([*messages[:at], _with_content(messages[at], mark), *messages[at + 1 :]])
        except TEMPLATE_ERRORS:
            return None
        if replaced == text:
            return None

        start = _shared(text, replaced)
        tail = _shared(text[start:][::-1], replaced[start:][::-1])
        stop = len(text) - tail
        stop += self._end_mark(messages, at, mark, text[stop:])
        return (start, stop) if start < stop else None

    def _end_mark(self, messages: Sequence[Message], at: int, mark: str, following: str) -> int:
        """Length of what the template writes behind the message when it is the last one, as far as it is there."""
        history = messages[:at]
        if all(message["role"] != "user" for message in history):  # which some templates refuse
            history = [*history, {"role": "user", "content": "x"}]
        try:
            ended = self.rendered([*history, _with_content(messages[at], mark)])
        except TEMPLATE_ERRORS:
            return 0
        return _shared(ended.rpartition(mark)[2], following) if mark in ended else 0

    def _render(self, messages: Sequence[Message], **options: Any) -> Any:
        template = self.tokenizer.get_chat_template(tools=self.tools)
        conversation = [{key: value for key, value in each.items() if key != "weight"} for each in messages]
        with bounded(seconds=TEMPLATE_SECONDS, nbytes=TEMPLATE_BYTES):
            # Compiled once; rendering finds the same. Compiling computes constants, so it needs the limits as well.
            _compile_jinja_template(template).globals["strftime_now"] = _today
            return render_jinja_template(
                conversations=[conversation],
                tools=self.tools,
                chat_template=template,
                **self.tokenizer.special_tokens_map,
                **options,
            )


def _today(form: str) -> str:
    return TODAY.strftime(form)


def _with_content(message: Message, mark: str) -> Message:
    """The message as if the assistant had written `mark` and nothing else."""
    return {"role": message["role"], "content": mark}


def _shared(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _checked(text: str) -> str:
    if len(text) > MAX_RENDERED:
        raise ValueError(f"it made {len(text)} characters of one example")
    return text
