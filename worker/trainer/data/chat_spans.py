"""Where in a rendered conversation an assistant's message is, found by rendering others and comparing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from worker.trainer.data.chat_template import (
    TEMPLATE_ERRORS,
    ChatTemplate,
    Message,
    Span,
    text_of,
    unused_characters,
    with_marks,
)

_QUESTION: Message = {"role": "user", "content": "x"}
#: What templates write around messages: `<|im_end|>`, `</think>`, `[TOOL_CALLS]`.
_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


def spans_of(template: ChatTemplate, messages: Sequence[Message], at: int, text: str) -> list[Span]:
    """Where message `at`, with its end mark, is in the rendered conversation; none where it is not shown.

    Two spans where the template writes the results of a message's calls before its content, as Gemma 4 does.
    """
    span = _whole_span(template, messages, at, text)
    if span is None:
        return []
    start, stop = span[0], _behind_end_token(template, messages[at], text, span)
    if not _holds_results(messages, at, text[start:stop]):
        return [(start, stop)]

    called = _rendered(template, messages[: at + 1]) or ""
    content = text_of(messages[at].get("content")).strip()
    answer = text.rfind(content, start, stop) if content else -1
    return [(start, _outside_tag(text, _shared(text, called))), *([(answer, stop)] if answer >= 0 else [])]


def _whole_span(template: ChatTemplate, messages: Sequence[Message], at: int, text: str) -> Span | None:
    """From the first to the last character of the message.

    It begins where the generation prompt ends, and ends where the conversation up to it does. Not every template keeps
    to that once a conversation goes on: `<s>assistant: <think>` is the prompt, and `<s>assistant: answer` the history.
    What is not found in this way is found by replacing the message.
    """
    before = _rendered(template, messages[:at], prompt=True)
    after = _rendered(template, messages[: at + 1])
    start = len(before) if before is not None and text.startswith(before) else None
    stop = len(after) if after is not None and text.startswith(after) else None
    if not _is_asked(messages[:at]) and before == _rendered(template, messages[:at]):
        start = None  # some write a generation prompt behind questions only
    if start is not None and stop is not None and start < stop:
        return start, stop
    return _span_by_replacing(template, messages, at, text, start=start)


def _is_asked(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[-1]["role"] in ("user", "tool")


def _holds_results(messages: Sequence[Message], at: int, span: str) -> bool:
    """Whether the results of the calls of message `at` are in a text."""
    for message in messages[at + 1 :] if messages[at].get("tool_calls") else ():
        if message["role"] != "tool":
            return False
        result = text_of(message.get("content")).strip()
        if result and result in span:
            return True
    return False


def _behind_end_token(template: ChatTemplate, message: Message, text: str, span: Span) -> int:
    """Where a span ends if what follows its end token is left out.

    Command A writes the next generation prompt behind every answer, Command R+ instructions.
    """
    start, stop = span
    token = template.tokenizer.eos_token
    found = text.rfind(token, start, stop) if token else -1
    if found < 0 or (message.get("tool_calls") and message.get("content")):
        return stop
    end = found + len(token)
    return end if text[end:stop].strip() else stop


def _span_by_replacing(
    template: ChatTemplate, messages: Sequence[Message], at: int, text: str, *, start: int | None
) -> Span | None:
    """The part of the text that changes when the message is another one, from `start` on where that is known.

    text     `user: hi <end> assistant: hello <end> user: bye`
    replaced `user: hi <end> assistant: X <end> user: bye`     -> `hello`, and the end mark that follows it
    """
    mark, _ = unused_characters(text)
    for marked in (with_marks(messages[at], mark), with_marks(messages[at], mark, name=mark)):
        replaced = _rendered(template, [*messages[:at], marked, *messages[at + 1 :]])
        if replaced != text:  # else the template shows no arguments where there are none
            break
    if replaced is None or replaced == text:
        return None

    if start is None:
        start = min(_shared(text, replaced), _begin_of_call(template, messages, at, text, mark))
        start = len(text[:start].removesuffix(_lead(template, mark)))
    same = _shared(text[start:][::-1], replaced[start:][::-1])
    rest = replaced[replaced.rfind(mark) + 1 :]
    stop = len(text) - min(same, len(rest) - _end_mark(template, [*messages[:at], marked], mark, rest))
    stop = _outside_tag(text, stop)
    return (start, stop) if start < stop else None


def _begin_of_call(template: ChatTemplate, messages: Sequence[Message], at: int, text: str, mark: str) -> int:
    """Where what a template writes for a call begins: at the latest where a message without one is different."""
    if not messages[at].get("tool_calls"):
        return len(text)
    rest = range(at + 1, len(messages))
    following = next((turn for turn in rest if messages[turn]["role"] == "user"), len(messages))  # results need a call
    plain = {"role": messages[at]["role"], "content": mark}
    other = _rendered(template, [*messages[:at], plain, *messages[following:]])
    return len(text) if other is None else _outside_tag(text, _shared(text, other))


def _lead(template: ChatTemplate, mark: str) -> str:
    """What the template writes between its generation prompt and an answer, such as Mistral's space."""
    before = _rendered(template, [_QUESTION], prompt=True)
    answered = _rendered(template, [_QUESTION, {"role": "assistant", "content": mark}])
    if before is None or answered is None or not answered.startswith(before):
        return ""
    return answered.removeprefix(before).partition(mark)[0]


def _end_mark(template: ChatTemplate, messages: Sequence[Message], mark: str, rest: str) -> int:
    """Length of what the template writes behind `mark` in a last message, as far as `rest` begins with it."""
    *history, last = messages
    if all(message["role"] != "user" for message in history):  # which some templates refuse
        history.append(_QUESTION)
    ended = _rendered(template, [*history, last])
    asked = _rendered(template, [*history, last], prompt=True)  # gpt-oss has another mark where more follows
    before, after = _rendered(template, [_QUESTION]), _rendered(template, [_QUESTION], prompt=True)
    prompt = "" if before is None or after is None else after[_outside_tag(after, _shared(before, after)) :]
    tails = [
        each.rpartition(mark)[2] for each in (ended, asked and asked.removesuffix(prompt)) if each and mark in each
    ]
    return max((_shared(tail, rest) for tail in tails), default=0)


def _outside_tag(text: str, at: int) -> int:
    """Where the tag begins that `at` is inside of; else `at`: texts may differ first within a tag."""
    opened = max(text.rfind("<", 0, at), text.rfind("[", 0, at))
    tag = _TAG.match(text, opened) if opened >= 0 else None
    return opened if tag and tag.end() > at else at


def _rendered(template: ChatTemplate, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
    """None where the template refuses the conversation: some have no user message yet."""
    try:
        return template.rendered(messages, prompt=prompt)
    except TEMPLATE_ERRORS:
        return None


def _shared(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
