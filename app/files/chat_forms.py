"""Other forms in which people write conversations, read as the one of `app.files.conversations`.

TRL        {"prompt", "completion"} and {"prompt", "chosen", "rejected"} as lists of messages; without a prompt,
           "chosen" and "rejected" are whole conversations, and what both begin with is the prompt
ShareGPT   {"conversations": [{"from", "value"}]}, and "system" and "tools" beside it
Alpaca     {"instruction", "output"}, and "input" and "system" beside them
"""

from collections.abc import Mapping
from typing import Any, Final

from app.files.conversations import ConversationReader
from app.files.fields import without_nulls
from app.files.problems import count_of, kind_of, nearest

#: Who speaks in ShareGPT's form, and the role that this is.
SPEAKERS: Final = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}

Messages = list[dict[str, Any]]


class ChatForms(ConversationReader):
    """Reads the conversations of one file in any of the forms; problems are noted under the fields as they are."""

    def completed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """TRL's {"prompt", "completion"}: only the completion is learned, whatever the assistant says in the prompt."""
        prompt = self._messages("prompt", record["prompt"])
        answers = self._messages("completion", record["completion"])
        self._require_answer("completion", answers)
        context = [turn | {"weight": 0} if turn.get("role") == "assistant" else turn for turn in prompt]
        return {"messages": [*context, *answers], **self._tools("", record)}

    def compared(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """TRL's preferences, as `preference` gives them: {"messages", "chosen", "rejected"}."""
        chosen, rejected = (self._messages(name, record[name]) for name in ("chosen", "rejected"))
        prompt = record.get("prompt")
        if isinstance(prompt, list):
            messages = self._messages("prompt", prompt)
            whole = all(side[: len(messages)] == messages for side in (chosen, rejected))
            begins = len(messages) if whole else 0
        else:
            begins = _common(chosen, rejected)
            messages = chosen[:begins]
            self._check_implied(messages, prompt, complete=bool(chosen and rejected))

        answers = [self._only_answer("chosen", chosen[begins:]), self._only_answer("rejected", rejected[begins:])]
        if answers[0] and answers[0] == answers[1]:
            self._checks.note("rejected", "no_preference", "'chosen' and 'rejected' are the same text")
        return {"messages": messages, "chosen": answers[0], "rejected": answers[1], **self._tools("", record)}

    def shared(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """ShareGPT's form; messages with role and content are read under its name as well."""
        value = record["conversations"]
        if not isinstance(value, list) or not value:
            what = "an empty array" if value == [] else kind_of(value)
            message = f"'conversations' is {what}; it must be a list of objects with from and value"
            self._checks.note("conversations", "wrong_type", message)
            return {}
        messages = [self._said(f"conversations[{at}]", item) for at, item in enumerate(value)]
        self._require_answer("conversations", messages)
        return {"messages": [*self._system(record), *messages], **self._tools("", record)}

    def instructed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Alpaca's form: instruction and input, one under the other, are the user's message."""
        asked = self._checks.text("instruction", record["instruction"])
        given = self._checks.text("input", record.get("input", ""), empty=True)
        answer = self._checks.text("output", record["output"])
        question = {"role": "user", "content": f"{asked}\n{given}" if given.strip() else asked}
        return {"messages": [*self._system(record), question, {"role": "assistant", "content": answer}]}

    # ---- parts -------------------------------------------------------------------------------------------------

    def _system(self, record: Mapping[str, Any]) -> Messages:
        text = self._checks.text("system", record.get("system", ""), empty=True)
        return [{"role": "system", "content": text}] if text.strip() else []

    def _said(self, name: str, value: Any) -> dict[str, Any]:
        """One message {"from", "value"[, "weight"]}."""
        if not isinstance(value, dict) or value.keys() & {"role", "content"}:
            return self._message(name, value)
        value = without_nulls(value)
        for key in value:
            if key not in ("from", "value", "weight"):
                self._checks.note(f"{name}.{key}", "unknown_field", f"a message has from and value, not '{key}'")

        speaker = value.get("from")
        role = SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            near = nearest(speaker, SPEAKERS) if isinstance(speaker, str) else ""
            message = f"'from' must be one of {', '.join(SPEAKERS)}, not {speaker!r:.40}{near}"
            self._checks.note(f"{name}.from", "unknown_role", message)
            return {"role": "unknown", "content": ""}

        said = self._checks.text(f"{name}.value", value.get("value"), empty=role != "assistant")
        if role == "call":
            return {"role": "assistant", "content": "", "tool_calls": self._said_calls(f"{name}.value", said)}
        weight = self._weight(name, value["weight"]) if role == "assistant" and "weight" in value else {}
        return {"role": role, "content": said, **weight}

    def _said_calls(self, name: str, said: str) -> Messages:
        """Calls as a text of JSON: {"name", "arguments"}, or several in a list."""
        calls = self._checks.parsed_json(name, said) if said else []
        return [self._call(name, call) for call in (calls if isinstance(calls, list) else [calls])]

    def _require_answer(self, name: str, messages: Messages) -> None:
        if messages and not any(turn.get("role") == "assistant" and "weight" not in turn for turn in messages):
            self._checks.note(name, "nothing_to_learn", "has no message of the assistant to learn from")

    def _check_implied(self, messages: Messages, prompt: Any, *, complete: bool) -> None:
        """Notes where conversations have no beginning in common, or another one than a `prompt` beside them says."""
        if complete and not messages:
            message = "'chosen' and 'rejected' begin with different messages; what both begin with is the prompt"
            self._checks.note("rejected", "no_prompt", message)
        asked = next((turn["content"] for turn in reversed(messages) if turn.get("role") == "user"), None)
        if messages and prompt is not None and asked != prompt:
            message = (
                f"'prompt' is {kind_of(prompt)} that is not the user's last message in 'chosen' and 'rejected'; write "
                "it as a list of messages, or leave it out"
            )
            self._checks.note("prompt", "conflict", message)

    def _only_answer(self, name: str, messages: Messages) -> str | dict[str, Any]:
        if len(messages) != 1 or messages[0].get("role") != "assistant":
            found = count_of(len(messages), "message")
            message = f"'{name}' must have one message after the prompt, with the role 'assistant'; it has {found}"
            self._checks.note(name, "wrong_type", message)
            return ""
        return self._answer_of(messages[0])


def _common(first: Messages, second: Messages) -> int:
    """How many messages both begin with, without the last: that one is an answer."""
    most = min(len(first), len(second)) - 1
    return next((at for at in range(most) if first[at] != second[at]), max(0, most))
