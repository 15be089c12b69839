"""Pictures in training files: base64, data URIs and bytes, as the bytes of an image file. Nothing is decoded here."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

from app.files.fields import FieldChecks
from app.files.problems import kind_of

#: How files of each kind begin. RIFF is the container of WebP.
_MAGIC: Final = {
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
    "gif": (b"GIF87a", b"GIF89a"),
    "bmp": (b"BM",),
    "webp": (b"RIFF",),
    "tiff": (b"II*\0", b"MM\0*"),
}
_ALIASES: Final = {"jpg": "jpeg", "tif": "tiff", "x-ms-bmp": "bmp"}
_DATA_URI: Final = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ADVICE: Final = "store an image file as base64 in JSONL, as bytes in Parquet"
_WRITE: Final = "write the picture itself, as data:image/png;base64,… (nothing is fetched)"


@dataclass(frozen=True, slots=True)
class Picture:
    """The value of one field that holds a picture; problems with it are noted under `name`."""

    checks: FieldChecks
    name: str
    value: Any
    uri: bool = False  # only a data URI will do, as in OpenAI's `image_url`

    def data(self) -> bytes:
        """The bytes of the image file; none after a problem was noted."""
        value = self.value
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            value = value["bytes"]  # how the `datasets` library stores an image in Parquet
        if isinstance(value, str):
            return self._of_text(value)
        if not isinstance(value, bytes):
            message = f"'{self.name}' is {kind_of(value)}; it must be the bytes of an image file"
            return self._refused("wrong_type", message)
        return self._recognised(value)

    def _of_text(self, text: str) -> bytes:
        head = _DATA_URI.match(text[:256])
        if head is not None:
            return self._of_data_uri(text, head)
        if _URL.match(text[:64]):
            scheme = text.partition("://")[0].lower()
            return self._refused("not_a_data_uri", f"'{self.name}' is an address ({scheme}); {_WRITE}")
        if self.uri:
            return self._refused("not_a_data_uri", f"'{self.name}' is not a data URI; {_WRITE}")
        data = self._decoded(text)
        return b"" if data is None else self._recognised(data)

    def _of_data_uri(self, text: str, head: re.Match[str]) -> bytes:
        if "base64" not in head[2].lower().split(";"):
            return self._refused("not_base64", f"'{self.name}' is a data URI without ';base64'; {_WRITE}")
        family, _, kind = head[1].lower().partition("/")
        kind = _ALIASES.get(kind, kind)
        if family != "image" or kind not in _MAGIC:
            known = ", ".join(f"image/{each}" for each in _MAGIC)
            message = f"'{self.name}' has the type {head[1]!r:.60}; pictures are {known}"
            return self._refused("wrong_mime", message)

        decoded = self._decoded(text[head.end() :])
        data = b"" if decoded is None else self._recognised(decoded)
        found = _kind_of_file(data)
        if data and found != kind:
            message = f"'{self.name}' says image/{kind}, and its bytes are those of image/{found}; correct the type"
            return self._refused("wrong_mime", message)
        return data

    def _decoded(self, text: str) -> bytes | None:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            self._refused("not_base64", f"'{self.name}' is text that is not base64; {_ADVICE}")
            return None

    def _recognised(self, data: bytes) -> bytes:
        if _kind_of_file(data) is None:
            what = "does not start like a PNG, JPEG, GIF, BMP, WebP or TIFF file" if data else "is empty"
            return self._refused("not_an_image", f"'{self.name}' {what}")
        return data

    def _refused(self, code: str, message: str) -> bytes:
        self.checks.note(self.name, code, message)
        return b""


def _kind_of_file(data: bytes) -> str | None:
    return next((kind for kind, begins in _MAGIC.items() if data.startswith(begins)), None)
