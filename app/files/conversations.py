"""Conversations in training files, in the shapes that people write them, as the one shape that chat templates read.

    messages   {"role", "content"}, and as far as they are there "name", "tool_call_id", "weight": 0,
               "reasoning_content", "tool_calls": [{"id", "type": "function", "function": {"name", "arguments"}}]
    tools      [{"type": "function", "function": {"name", "description", "parameters"}}]

Arguments are objects there: OpenAI writes them as JSON text, and templates write objects as JSON. `functions`,
`function_call` and the role `function`, which OpenAI had before tools, become tools, their calls and their results.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.files.fields import MAX_DEPTH, FieldChecks, without_nulls
from app.files.problems import kind_of, nearest

ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
#: Names of roles in other formats.
ALSO_CALLED: Final = {"human": "user", **dict.fromkeys(("gpt", "model", "chatgpt", "bot", "ai"), "assistant")}
#: Fields of a record beside its messages.
OPTIONS: Final = ("tools", "functions", "parallel_tool_calls")
#: Names under which reasoning is found: of Qwen and DeepSeek, of vLLM, of gpt-oss.
REASONING: Final = ("reasoning_content", "reasoning", "thinking")

_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "assistant": ("role", "content", "name", "weight", "tool_calls", "function_call", *REASONING),
    "tool": ("role", "content", "name", "tool_call_id"),
    **dict.fromkeys(("system", "developer", "user", "function"), ("role", "content", "name")),
}


class ConversationReader:
    """Reads the conversations of one file; `checks` has the line, and gets the problems."""

    def __init__(self, checks: FieldChecks) -> None:
        self._checks = checks

    def example(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A conversation to learn from: {"messages"} and, where it has tools, {"tools"}."""
        messages = self._messages("messages", record["messages"])
        if messages and not any(turn.get("role") == "assistant" and "weight" not in turn for turn in messages):
            self._checks.note("messages", "nothing_to_learn", "has no message with the role 'assistant' to learn from")
        return {"messages": messages, **self._tools("", record)}

    def preference(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's preference format: a conversation and two answers to it, {"messages", "chosen", "rejected"}.

        An answer is a text, or a message where it is more than that.
        """
        names = ("preferred_output", "non_preferred_output")
        conversation = self._input(record["input"])
        chosen, rejected = (self._answer(name, record[name]) for name in names)
        if chosen and chosen == rejected:
            self._checks.note(names[1], "no_preference", f"'{names[0]}' and '{names[1]}' are the same text")
        return {**conversation, "chosen": chosen, "rejected": rejected}

    def _input(self, value: Any) -> dict[str, Any]:
        value = without_nulls(value) if isinstance(value, dict) else value
        if not isinstance(value, dict) or "messages" not in value:
            message = f"'input' is {kind_of(value)}; it must be an object with 'messages'"
            self._checks.note("input", "wrong_type", message)
            return {}
        for key in value:
            if key not in ("messages", *OPTIONS):
                message = f"'input' has messages, {', '.join(OPTIONS)}, not '{key}'{nearest(key, OPTIONS)}"
                self._checks.note(f"input.{key}", "unknown_field", message)
        return {"messages": self._messages("input.messages", value["messages"]), **self._tools("input.", value)}

    def _answer(self, name: str, value: Any) -> str | dict[str, Any]:
        """An answer is a list with one message of the assistant."""
        messages = self._messages(name, value)
        if len(messages) != 1 or messages[0].get("role") != "assistant":
            message = f"'{name}' must be a list with one message, with the role 'assistant'"
            self._checks.note(name, "wrong_type", message)
            return ""
        return self._answer_of(messages[0])

    def _answer_of(self, message: Mapping[str, Any]) -> str | dict[str, Any]:
        answer = {key: part for key, part in message.items() if key != "weight"}
        return str(answer["content"]) if set(answer) == {"role", "content"} else answer

    # ---- messages ----------------------------------------------------------------------------------------------

    def _messages(self, name: str, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not value:
            what = "an empty array" if value == [] else kind_of(value)
            message = f"'{name}' is {what}; it must be a list of messages with role and content"
            self._checks.note(name, "wrong_type", message)
            return []
        return [self._message(f"{name}[{at}]", item) for at, item in enumerate(value)]

    def _message(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            message = f"'{name}' is {kind_of(value)}; a message is an object with role and content"
            self._checks.note(name, "wrong_type", message)
            return {}

        value = {key: part for key, part in without_nulls(value).items() if (key, part) != ("tool_calls", [])}
        role = value.get("role")
        if role not in ROLES:
            near = _meant(role) if isinstance(role, str) else ""
            message = f"the role must be one of {', '.join(ROLES)}, not {role!r:.40}{near}"
            self._checks.note(f"{name}.role", "unknown_role", message)
            return {"role": str(role), "content": ""}

        self._refuse_fields(name, role, value)
        extras = self._extras(name, value) if role == "assistant" else {}
        wordless = role == "assistant" and bool(extras.keys() & {"tool_calls", "reasoning_content"})
        content = "" if wordless and "content" not in value else self._content(name, value, wordless=wordless)
        names = {
            key: self._checks.text(f"{name}.{key}", value[key]) for key in ("name", "tool_call_id") if key in value
        }
        return {"role": "tool" if role == "function" else role, "content": content, **names, **extras}

    def _refuse_fields(self, name: str, role: str, message: Mapping[str, Any]) -> None:
        for key in message:
            if key not in _FIELDS[role]:
                known = _FIELDS[role]
                problem = f"a message with the role '{role}' has {', '.join(known)}, not '{key}'{nearest(key, known)}"
                self._checks.note(f"{name}.{key}", "unknown_field", problem)

    def _content(self, name: str, message: Mapping[str, Any], *, wordless: bool) -> Any:
        """The content as one text; templates for text write its parts one after the other."""
        name, value = f"{name}.content", message.get("content")
        if not isinstance(value, list):
            return self._checks.text(name, value, empty=wordless or message["role"] != "assistant")

        text = "".join(self._part(f"{name}[{at}]", part) for at, part in enumerate(value))
        if not text.strip() and not wordless and message["role"] == "assistant":
            self._checks.note(name, "empty_value", f"'{name}' is empty")
        return text

    def _part(self, name: str, value: Any) -> str:
        part = without_nulls(value) if isinstance(value, dict) else {}
        kind = part.get("type", "text")
        if kind != "text":
            message = f"'{name}' is a part of the type {kind!r:.40}; messages are learned from as text alone"
            if str(kind).endswith(("image", "image_url")):
                message += " (a model that sees pictures learns from them in the task 'image-text')"
            self._checks.note(name, "unsupported_part", message)
            return ""
        if part.keys() - {"type"} != {"text"}:
            message = f"'{name}' is {kind_of(value)}; a part is an object with type and text"
            self._checks.note(name, "wrong_type", message)
            return ""
        return self._checks.text(f"{name}.text", part["text"], empty=True)

    # ---- what only the assistant's messages have ---------------------------------------------------------------

    def _extras(self, name: str, message: Mapping[str, Any]) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if "weight" in message:
            extras |= self._weight(name, message["weight"])
        given = [key for key in REASONING if key in message]
        if len(given) > 1:
            self._checks.note(f"{name}.{given[1]}", "conflict", f"is reasoning, as '{given[0]}' is; keep one of them")
        reasoning = self._checks.text(f"{name}.{given[0]}", message[given[0]], empty=True) if given else ""
        if reasoning.strip():
            extras["reasoning_content"] = reasoning
        calls = self._all_calls(name, message)
        return {**extras, "tool_calls": calls} if calls else extras

    def _weight(self, name: str, value: Any) -> dict[str, int]:
        """OpenAI's `weight`: 0 leaves a message of the assistant out of the loss."""
        if isinstance(value, bool) or value not in (0, 1):
            self._checks.note(f"{name}.weight", "wrong_type", f"'{name}.weight' must be 0 (not learned) or 1")
        return {"weight": 0} if value == 0 else {}

    def _all_calls(self, name: str, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        old, calls = message.get("function_call"), message.get("tool_calls")
        if old is not None and calls is not None:
            problem = "is the old form of 'tool_calls', which are there as well; keep one of them"
            self._checks.note(f"{name}.function_call", "conflict", problem)
        if old is not None:
            return [self._call(f"{name}.function_call", old)]
        if calls is None:
            return []
        if not isinstance(calls, list):
            problem = f"'{name}.tool_calls' is {kind_of(calls)}; it must be a list of calls"
            self._checks.note(f"{name}.tool_calls", "wrong_type", problem)
            return []
        return [self._call(f"{name}.tool_calls[{at}]", call) for at, call in enumerate(calls)]

    def _call(self, name: str, value: Any) -> dict[str, Any]:
        """One call, also where it is the function alone, without the object around it."""
        outer, within, function = self._function(name, value)
        for key in function:
            if key not in ("name", "arguments"):
                self._checks.note(f"{within}.{key}", "unknown_field", f"a call has name and arguments, not '{key}'")

        called = self._checks.text(f"{within}.name", function.get("name"))
        arguments = self._object(f"{within}.arguments", function.get("arguments", {}))
        call = {"type": "function", "function": {"name": called, "arguments": arguments}}
        return {"id": self._checks.text(f"{name}.id", outer["id"]), **call} if "id" in outer else call

    # ---- tools -------------------------------------------------------------------------------------------------

    def _tools(self, prefix: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """{"tools"} where there are any."""
        parallel = record.get("parallel_tool_calls")
        if parallel is not None and not isinstance(parallel, bool):
            message = f"'{prefix}parallel_tool_calls' is {kind_of(parallel)}; it must be true or false"
            self._checks.note(f"{prefix}parallel_tool_calls", "wrong_type", message)

        lists = {key: self._list(f"{prefix}{key}", record[key]) for key in OPTIONS[:2] if record.get(key) is not None}
        if all(lists.get(key) for key in OPTIONS[:2]):
            message = "is the old form of 'tools', which are there as well; keep one of them"
            self._checks.note(f"{prefix}functions", "conflict", message)
        tools = [self._tool(f"{prefix}{key}[{at}]", tool) for key in lists for at, tool in enumerate(lists[key])]
        return {"tools": tools} if tools else {}

    def _list(self, name: str, value: Any) -> list[Any]:
        """A list, also as JSON text: columns of a table have one type, and the tools of each row may have another."""
        if isinstance(value, str):
            value = self._checks.parsed_json(name, value) if value.strip() else []
        if isinstance(value, list):
            return value
        if value is not None:
            self._checks.note(name, "wrong_type", f"'{name}' is {kind_of(value)}; it must be a list of functions")
        return []

    def _tool(self, name: str, value: Any) -> dict[str, Any]:
        _, name, function = self._function(name, value)
        function = _without_nulls_inside(function)
        self._checks.refuse_no_json(name, function)
        self._checks.text(f"{name}.name", function.get("name"))
        parameters = function.get("parameters", {})
        if not isinstance(parameters, dict):
            message = f"'{name}.parameters' is {kind_of(parameters)}; it must be an object (a JSON schema)"
            self._checks.note(f"{name}.parameters", "wrong_type", message)
        return {"type": "function", "function": function}

    def _function(self, name: str, value: Any) -> tuple[Mapping[str, Any], str, Mapping[str, Any]]:
        """The object around a function, and the function with the name of its field."""
        if not isinstance(value, dict):
            message = f"'{name}' is {kind_of(value)}; it must be an object with type and function"
            self._checks.note(name, "wrong_type", message)
            return {}, name, {"name": "-"}
        outer = without_nulls(value)
        kind = outer.get("type", "function")
        if kind != "function":
            self._checks.note(f"{name}.type", "wrong_type", f"'{name}.type' is {kind!r:.40}; it must be 'function'")

        inner = outer.get("function")
        if isinstance(inner, dict):
            return outer, f"{name}.function", without_nulls(inner)
        return outer, name, {key: part for key, part in outer.items() if key not in ("id", "type")}

    def _object(self, name: str, value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            value = self._checks.parsed_json(name, value) if value.strip() else {}
            if value is None:
                return {}
        elif isinstance(value, dict):
            value = _without_nulls_inside(value)
        if not isinstance(value, dict):
            message = f"'{name}' is {kind_of(value)}; it must be an object of arguments, or one as JSON text"
            self._checks.note(name, "wrong_type", message)
            return {}
        self._checks.refuse_no_json(name, value)
        return value


def _meant(role: str) -> str:
    return f" (did you mean '{ALSO_CALLED[role]}'?)" if role in ALSO_CALLED else nearest(role, ROLES)


def _without_nulls_inside(value: Any, depth: int = 0) -> Any:
    """Without null fields at every depth; deeper than is allowed, the value as it is."""
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, dict):
        return {key: _without_nulls_inside(part, depth + 1) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls_inside(part, depth + 1) for part in value]
    return value
