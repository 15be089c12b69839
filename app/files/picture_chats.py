"""Conversations about pictures, in the shapes that people write them, as the one shape that chat templates read.

    messages   as in `conversations`, with the content of each as a list of parts: {"type": "text", "text"} and, in the
               user's messages, {"type": "image", "image": the bytes of a file, "name": where the record has it}

Read are OpenAI's parts (`image_url` with a data URI) and those of transformers' templates (`image`, with base64 or
bytes). A part `image` without any takes the next one of the record's `images`, as the `datasets` library stores them.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.files.conversations import ConversationReader
from app.files.fields import FieldChecks, without_nulls
from app.files.pictures import Picture
from app.files.problems import count_of, kind_of

#: Types of parts that are pictures.
PICTURES: Final = ("image", "image_url", "input_image")
#: Keys of a part of the type `image`, one of which may hold the picture.
_HOLDERS: Final = ("image", "base64", "url", "path", "image_url")


class PictureChatReader(ConversationReader):
    """Reads the conversations of one file; `checks` has the line, and gets the problems."""

    def __init__(self, checks: FieldChecks) -> None:
        super().__init__(checks)
        self._apart: list[Any] = []  # the record's `images` that no part has taken yet
        self._missing: list[str] = []  # parts that found none left

    def example(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """{"messages"} and, where it has tools, {"tools"}."""
        images = record.get("images")
        if images is not None and not isinstance(images, list):
            self._checks.note("images", "wrong_type", f"'images' is {kind_of(images)}; it must be a list of pictures")
        given = images if isinstance(images, list) else []
        self._apart, self._missing = list(given), []

        found = super().example(record)
        self._refuse_other_count(len(given))
        return found

    def _refuse_other_count(self, given: int) -> None:
        """Each of `images` is shown once, by a part of the type `image` without a picture of its own."""
        if self._missing:
            message = (
                f"'{self._missing[0]}' holds no picture, and 'images' has {given or 'none'}: write the picture in the "
                'part, as {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}, or in \'images\''
            )
            self._checks.note(self._missing[0], "missing_picture", message)
        elif self._apart:
            left = count_of(len(self._apart), "picture")
            message = f'\'images\' has {left} more than the messages have parts {{"type": "image"}}: add the parts'
            self._checks.note("images", "unused_picture", message)

    def _content(self, name: str, message: Mapping[str, Any], *, wordless: bool) -> Any:
        """The content as a list of parts. A text alone is one part."""
        value = message.get("content")
        if not isinstance(value, list):
            text = super()._content(name, message, wordless=wordless)
            return [{"type": "text", "text": text}] if text else []

        name = f"{name}.content"
        parts = [self._shown(f"{name}[{at}]", part, message["role"]) for at, part in enumerate(value)]
        text = "".join(part.get("text", "") for part in parts)
        if message["role"] == "assistant" and not text.strip() and not wordless:
            self._checks.note(name, "empty_value", f"'{name}' is empty")
        return [part for part in parts if part.get("type") == "image" or part.get("text")]

    def _shown(self, name: str, value: Any, role: str) -> dict[str, Any]:
        part = without_nulls(value) if isinstance(value, dict) else {}
        kind = part.get("type")
        if kind not in PICTURES:
            return {"type": "text", "text": self._part(name, value)}
        if role not in ("user", "tool", "function"):
            message = f"'{name}' is a picture in a message with the role '{role}'; pictures are shown by the user"
            self._checks.note(name, "unsupported_part", message)
            return {}
        return {"type": "image", "image": self._picture(name, str(kind), part), "name": name}

    def _picture(self, name: str, kind: str, part: Mapping[str, Any]) -> bytes:
        held = [key for key in _HOLDERS if key in part]
        known = ("type", "detail", *_HOLDERS)
        for key in part:
            if key not in known:
                self._checks.note(f"{name}.{key}", "unknown_field", f"a picture has {', '.join(known)}, not '{key}'")
        if len(held) > 1 and held != ["image", "path"]:
            message = f"'{name}' holds a picture as '{held[0]}' and as '{held[1]}'; keep one of them"
            self._checks.note(f"{name}.{held[1]}", "conflict", message)
        if not held:
            if self._apart and kind == "image":
                return Picture(self._checks, "images", self._apart.pop(0)).data()
            self._missing.append(name)
            return b""

        where, value = f"{name}.{held[0]}", part[held[0]]
        if isinstance(value, dict) and "url" in value:  # OpenAI's object around it, with `detail` beside
            where, value = f"{where}.url", value["url"]
        return Picture(self._checks, where, value, uri=held[0] in ("url", "path", "image_url")).data()


def has_pictures(record: Mapping[str, Any]) -> bool:
    """Whether a record shows pictures in its messages: what sets it apart from a conversation of texts."""
    if record.get("images"):
        return True
    messages = record.get("messages")
    contents = (
        [each.get("content") for each in messages if isinstance(each, Mapping)] if isinstance(messages, list) else []
    )
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return any(isinstance(part, Mapping) and part.get("type") in PICTURES for part in parts)
