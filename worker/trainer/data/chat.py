"""Chats: a conversation as one text, and the spans of characters in it that the assistant wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.files import formats
from app.files.problems import LineProblem, first_line
from worker.trainer.data import chat_template
from worker.trainer.data.bounds import OutOfBounds
from worker.trainer.data.chat_spans import spans_of
from worker.trainer.data.chat_template import TEMPLATE_ERRORS, TODAY, ChatTemplate, Message, NotShown, Span, text_of

#: For a tokenizer without a template. It needs no special tokens, which the vocabulary might not have.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

#: How reasoning is written within a content.
START_OF_THOUGHT, END_OF_THOUGHT = "<think>", "</think>"

#: What a template may leave out of a conversation, as a note says it.
ANSWERS = "assistant messages are not learned"
REASONING = "texts of reasoning are not learned"
BESIDE = "texts beside calls of tools are not learned"
TOOLS = "conversations do not show their tools"
CONTEXT = "messages of other roles are not shown"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text. `spans` are learned; `left_out` counts what the text does not show, by kind."""

    text: str
    spans: list[Span]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def hidden(self) -> int:
        """Assistant messages that the text does not show."""
        return self.left_out[ANSWERS]


def render(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Any] | None = None) -> RenderedChat:
    """The whole conversation, with the spans of the assistant's messages (all but those with weight 0).

    Spans are the template's own `{% generation %}` blocks where it has them, else they are found by comparing
    renderings. Raises one of `TEMPLATE_ERRORS`, OutOfBounds or MemoryError where the template cannot render, and
    NotShown where it leaves out a call of a tool or its result.
    """
    learned = [
        at for at, message in enumerate(messages) if message["role"] == "assistant" and message.get("weight") != 0
    ]
    return _rendered(messages, learned, tokenizer, tools)


def render_answer(
    messages: Sequence[Message], answer: str | Message, tokenizer: Any, *, tools: Sequence[Any] | None = None
) -> RenderedChat:
    """A conversation and the assistant's next message, the only one that is learned. NotShown where it is hidden."""
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    rendered = _rendered([*messages, message], [len(messages)], tokenizer, tools)
    if rendered.hidden:
        raise NotShown("does not show the answer")
    return rendered


def ensure_template(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Gives a tokenizer the plain template where rows are chats and it has none. Returns the note to report.

    ModelError for a template that is no template.
    """
    if "messages" not in rows[0]:
        return None
    template = getattr(tokenizer, "chat_template", None)
    if template:
        ChatTemplate(tokenizer).refuse_unreadable()
        if "strftime_now" not in str(template):
            return None
        return (
            f"the chat template writes today's date; in training it is {TODAY:%d %b %Y}, so that runs can be repeated"
        )

    tokenizer.chat_template = PLAIN_TEMPLATE
    return "the tokenizer has no chat template; messages are written as 'Role: content' lines: do the same at inference"


def notes_of(left_out: Mapping[str, int], tokenizer: Any) -> tuple[str, ...]:
    """What the template left out of all conversations, for the job's events."""
    name = ChatTemplate(tokenizer).name
    return tuple(
        f"{count} {what}: the chat template of {name} leaves them out of the conversation"
        for what, count in left_out.items()
        if count
    )


@contextmanager
def refused_by_template(tokenizer: Any, *, line: int, param: str) -> Iterator[None]:
    """Turns a chat template's error into a DataError about the example in `line`."""
    try:
        yield
    except (OutOfBounds, MemoryError) as error:
        seconds, nbytes = chat_template.TEMPLATE_SECONDS, chat_template.TEMPLATE_BYTES
        limit = f"{seconds:g} seconds" if isinstance(error, OutOfBounds) else f"{nbytes:,} bytes"
        message = f"the tokenizer's chat template takes more than {limit} for these messages"
        raise formats.refusal([LineProblem(line, "messages", "template_too_costly", message)], param=param) from None
    except NotShown as error:
        message = (
            f"the chat template of {ChatTemplate(tokenizer).name} {error}: nothing right can be learned from that; "
            "leave it out, or take a model whose template shows it"
        )
        raise formats.refusal([LineProblem(line, "messages", "left_out_by_template", message)], param=param) from None
    except TEMPLATE_ERRORS as error:
        message = f"the tokenizer's chat template refused these messages: {first_line(error)}"
        raise formats.refusal([LineProblem(line, "messages", "template_refused", message)], param=param) from None


def _rendered(
    messages: Sequence[Message], learned: Sequence[int], tokenizer: Any, tools: Sequence[Any] | None
) -> RenderedChat:
    template = ChatTemplate(tokenizer, tools)
    text, marks = template.conversation(messages)

    left_out = Counter({ANSWERS: 0, **_left_out(template, messages, learned, text)})
    spans: list[Span] = []
    for at in learned:
        shown = _spans(template, messages, at, text, marks)
        left_out[ANSWERS] += not shown
        spans += shown
    return RenderedChat(text, spans, left_out)


def _spans(
    template: ChatTemplate, messages: Sequence[Message], at: int, text: str, marks: Sequence[Span]
) -> list[Span]:
    """The spans of message `at`: those of the template's own marks that are in it, where the template has marks."""
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    if len(turns) == len(marks) and all(
        _answer(messages[turn]) in text[start:stop] for turn, (start, stop) in zip(turns, marks, strict=True)
    ):
        return [marks[turns.index(at)]]
    spans = spans_of(template, messages, at, text)
    if not marks:
        return spans
    return [mark for mark in marks if any(start <= mark[0] < stop for start, stop in spans)]


def _left_out(template: ChatTemplate, messages: Sequence[Message], learned: Sequence[int], text: str) -> Counter[str]:
    """What else is not in the text. NotShown for the result of a tool, without which its answer makes no sense."""
    counts: Counter[str] = Counter()
    for at, message in enumerate(messages):
        if message["role"] != "assistant" and not template.shows(messages, at, text):
            if message["role"] == "tool":
                raise NotShown(f"leaves out the result of a tool in messages[{at}]")
            counts[CONTEXT] += 1

    counts[REASONING] = sum(thought not in text for at in learned for thought in _thoughts(messages[at]))
    counts[BESIDE] = sum(_answer(messages[at]) not in text for at in learned if messages[at].get("tool_calls"))
    if template.tools is not None:
        counts[TOOLS] = not template.shows_tools(messages, text)
    return counts


def _answer(message: Message) -> str:
    """The content of a message without the reasoning in it."""
    return text_of(message.get("content")).rpartition(END_OF_THOUGHT)[2].strip()


def _thoughts(message: Message) -> list[str]:
    """The reasoning of a message, in its own field or in the content, where some templates cut it out."""
    within = text_of(message.get("content")).rpartition(END_OF_THOUGHT)[0]
    return [
        within.rpartition(START_OF_THOUGHT)[2].strip(),
        str(message.get("reasoning_content") or "").strip(),
    ]
