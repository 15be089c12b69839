"""The chat template of one tokenizer: conversations as text, rendered within limits and on a fixed date."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from json import dumps
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from app.errors import ModelError
from worker.trainer.data.bounds import OutOfBounds, bounded

Message = Mapping[str, Any]
Span = tuple[int, int]

#: Limits of one rendering, which usually takes milliseconds. A template is a program that came with the model.
TEMPLATE_SECONDS = 10.0
TEMPLATE_BYTES = 512 << 20
MAX_RENDERED = 4_000_000  # characters: a template may repeat its input
#: The date that templates see as today's (Llama 3's default): a job that resumes tomorrow trains on the same text.
TODAY = datetime(2024, 7, 26, tzinfo=UTC)

TEMPLATE_ERRORS = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    AttributeError,
)
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class NotShown(ValueError):
    """The template leaves out a part of a conversation without which the rest must not be learned."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template reads messages that call tools.

    Most write arguments from an object, some (DeepSeek R1) from JSON text. Some look for calls only where the content
    is None, others fail on None.
    """

    no_content: str | None = ""
    as_text: bool = False
    in_parts: bool = False  # contents are lists of parts, as templates of models that see pictures read them


FORMS = tuple(CallForm(no_content, as_text) for no_content in ("", None) for as_text in (False, True))


class ChatTemplate:
    """Renders conversations with the template that the tokenizer has for these `tools`."""

    def __init__(self, tokenizer: Any, tools: Sequence[Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.tools = list(tools) if tools else None
        self._form = CallForm()

    @property
    def name(self) -> str:
        """The name by which users know it: the tokenizer's folder."""
        return self.tokenizer.name_or_path.rstrip("/").rpartition("/")[2] or type(self.tokenizer).__name__

    def refuse_unreadable(self) -> None:
        """Raises ModelError where the template's own syntax is wrong: it refuses every conversation."""
        try:
            with bounded(seconds=TEMPLATE_SECONDS, nbytes=TEMPLATE_BYTES):
                _compile_jinja_template(self.tokenizer.get_chat_template())
        except TemplateSyntaxError as error:
            message = f"the chat template of {self.name} cannot be read: {error.message} in its line {error.lineno}"
            raise ModelError(message, param="model") from None
        except (OutOfBounds, MemoryError, *TEMPLATE_ERRORS):  # refused by line, where a line needs it
            return

    def fit(self, messages: Sequence[Message]) -> None:
        """Finds the form in which the template shows every call of `messages`, name and arguments.

        Raises NotShown where it shows them in none, or the template's own error where it refuses all of them.
        """
        in_parts = self._reads_parts(messages)
        self._form = CallForm(in_parts=in_parts)
        calling = [at for at, message in enumerate(messages) if message.get("tool_calls")]
        if not calling:
            return

        name, argument = unused_characters("".join(map(str, messages)))
        marked = [with_marks(each, argument, name=name) if each.get("tool_calls") else each for each in messages]
        calls = [call["function"]["arguments"] for at in calling for call in messages[at]["tool_calls"]]
        errors: list[Exception] = []
        shown = False
        for form in FORMS:
            self._form = replace(form, in_parts=in_parts)
            try:
                text = self.rendered(marked)
            except TEMPLATE_ERRORS as error:
                errors.append(error)
                continue
            shown = True
            complete = text.count(name) >= len(calls) and text.count(argument) >= 2 * sum(map(bool, calls))
            if complete and f"'{argument}': " not in text:  # else printed as a Python object, not written as JSON
                return

        if errors and not shown:
            raise errors[0]
        called = messages[calling[0]]["tool_calls"][0]["function"]["name"]
        raise NotShown(f"leaves out the call of the tool '{called:.60}' in messages[{calling[0]}], or its arguments")

    def conversation(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text with the template's marks, in the form in which the template shows what the messages say.

        Raises what `fit` raises, or the template's own error.
        """
        self.fit(messages)
        try:
            text, marks = self.rendered_with_marks(messages)
        except TEMPLATE_ERRORS:
            if not self._reads_only_parts(messages):
                raise
        else:
            if _says(text, messages) or not self._reads_only_parts(messages):
                return text, marks
        return self.rendered_with_marks(messages)

    def rendered(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        text: str = self._render(messages, add_generation_prompt=prompt)[0][0]
        return _checked(text)

    def rendered_with_marks(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text, and the spans of the template's `{% generation %}` blocks, if it has any."""
        if not _MARKS.search(str(self.tokenizer.chat_template)):
            return self.rendered(messages), []
        texts, marks = self._render(messages, return_assistant_tokens_mask=True)
        return _checked(texts[0]), [(start, stop) for start, stop in marks[0] if start < stop]

    def shows(self, messages: Sequence[Message], at: int, text: str) -> bool:
        """Whether the content of message `at` has a part in `text`, which all of `messages` became."""
        content = text_of(messages[at].get("content")).strip()
        if content in text:
            return True
        changed = {**messages[at], "content": unused_characters(text)[0]}
        try:
            return self.rendered([*messages[:at], changed, *messages[at + 1 :]]) != text
        except TEMPLATE_ERRORS:
            return True

    def shows_tools(self, messages: Sequence[Message], text: str) -> bool:
        """Whether `text`, which `messages` became, is another one without the tools."""
        bare = ChatTemplate(self.tokenizer)
        bare._form = self._form
        try:
            return bare.rendered(messages) != text
        except TEMPLATE_ERRORS:
            return True

    def _reads_parts(self, messages: Sequence[Message]) -> bool:
        """Whether the template reads contents as lists of parts, for messages that have them as such.

        Raises NotShown where it leaves out the pictures among them.
        """
        if not any(isinstance(message.get("content"), list) for message in messages):
            return False
        plain = [{**message, "content": text_of(message.get("content"))} for message in messages]
        self._form = CallForm(in_parts=True)
        try:
            text = self.rendered(messages)
            shown = "'type':" not in text and text != self.rendered(plain)  # else printed as a Python object
        except TEMPLATE_ERRORS:
            if _pictures(messages):
                raise
            return False
        if _pictures(messages):
            if not shown:
                raise NotShown("does not show pictures")
            return True
        return "'type':" not in text and _says(text, messages)

    def _reads_only_parts(self, messages: Sequence[Message]) -> bool:
        """Whether the template says all that the messages do once contents are lists of parts; if so, they are."""
        before, self._form = self._form, replace(self._form, in_parts=True)
        try:
            text = self.rendered(messages)
        except TEMPLATE_ERRORS:
            text = ""
        if before.in_parts or "'type':" in text or not _says(text, messages):
            self._form = before
            return False
        return True

    def _render(self, messages: Sequence[Message], **options: Any) -> Any:
        template = self.tokenizer.get_chat_template(tools=self.tools)
        conversation = [_as_read(message, self._form) for message in messages]
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


def unused_characters(text: str) -> tuple[str, str]:
    """Two characters for private use that the text does not have."""
    one, other, *_ = (char for char in map(chr, range(0xE000, 0xF8FF)) if char not in text)
    return one, other


def with_marks(message: Message, mark: str, *, name: str | None = None) -> Message:
    """The assistant's message with `mark` instead of all that it says. Calls stay calls: their results need them.

    `name` replaces the names of the tools that it calls.
    """
    content = message.get("content")
    calls = message.get("tool_calls")
    if not calls:
        return {"role": message["role"], "content": mark}
    marked = [
        {**call, "function": {"name": name or call["function"]["name"], "arguments": {mark: mark}}} for call in calls
    ]
    return {"role": message["role"], "content": content if name else content and mark, "tool_calls": marked}


def text_of(content: Any) -> str:
    """The text of a content: of its parts, one after the other, where it is a list."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content or "")


def _says(text: str, messages: Sequence[Message]) -> bool:
    """Whether the contents of all messages are in a text."""
    return all(text_of(each.get("content")).strip() in text for each in messages)


def _pictures(messages: Sequence[Message]) -> int:
    parts = (part for each in messages if isinstance(each.get("content"), list) for part in each["content"])
    return sum(part["type"] == "image" for part in parts)


def _as_read(message: Message, form: CallForm) -> dict[str, Any]:
    """A message as the template gets it."""
    given = {key: value for key, value in message.items() if key != "weight"}
    content = given.get("content")
    if form.in_parts and isinstance(content, str):
        given["content"] = [{"type": "text", "text": content}] if content else []
    elif not form.in_parts and isinstance(content, list):
        given["content"] = text_of(content)
    if not message.get("tool_calls"):
        return given
    if form.as_text:
        given["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _json(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return {**given, "content": given.get("content") or form.no_content}


def _json(value: Any) -> str:
    return dumps(value, ensure_ascii=False)


def _today(form: str) -> str:
    return TODAY.strftime(form)


def _checked(text: str) -> str:
    if len(text) > MAX_RENDERED:
        raise ValueError(f"it made {len(text)} characters of one example")
    return text
