"""Stores a multipart upload as a blob while it arrives: parsed, hashed and written in one pass, in little memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest, TooLarge
from app.storage.blobs import Blob, BlobWriter, Storage

#: Chunks from the socket are collected to this size before a thread parses them: 1,000 hand-overs per gigabyte.
_BATCH: Final = 1 << 20
_MAX_FIELDS: Final = 32
_MAX_FIELD_BYTES: Final = 64 << 10
#: Bytes that a body may have beyond its file: other fields and boundaries.
OVERHEAD: Final = 1 << 20


@dataclass(slots=True)
class ReceivedForm:
    """A received form: its text fields, and the file's name and blob."""

    fields: dict[str, str]
    filename: str
    blob: Blob


async def receive(
    content_type: str,
    body: AsyncIterator[bytes],
    storage: Storage,
    *,
    limit: int,
    field: str = "file",
    name: str | None = None,
) -> ReceivedForm:
    """Store the form's file, the part called `field`, of at most `limit` bytes; as a blob, or under a `name`.

    Leaves nothing in the storage when it raises.
    """
    boundary = _boundary(content_type)
    incoming = storage.writer(name)
    writer = await run_in_threadpool(incoming.__enter__)
    try:
        form = MultipartForm(boundary, writer, limit=limit, field=field)
        pending = bytearray()
        async for chunk in body:
            pending += chunk
            if len(pending) >= _BATCH:
                await run_in_threadpool(form.feed, bytes(pending))
                pending.clear()
        await run_in_threadpool(form.feed, bytes(pending))
        form.finish()
    except BaseException as error:
        await run_in_threadpool(incoming.__exit__, type(error), error, error.__traceback__)
        raise
    await run_in_threadpool(incoming.__exit__, None, None, None)
    return ReceivedForm(form.fields, form.filename, writer.blob)


@dataclass(slots=True)
class _FormPart:
    name: str = ""
    filename: str | None = None
    data: bytearray = field(default_factory=bytearray)


class MultipartForm:
    """Parses a multipart body in pieces of any size. The file's bytes go to `writer`, other fields are kept."""

    def __init__(self, boundary: bytes, writer: BlobWriter, *, limit: int, field: str = "file") -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self._file_field = field
        self._has_file = False
        self._complete = False
        self._writer = writer
        self._limit = limit
        self._part = _FormPart()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header_name,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the multipart body is malformed: {error}", code="invalid_multipart") from None

    def finish(self) -> None:
        """Raise InvalidRequest when the body ended early or contained no file."""
        if not self._complete:
            raise InvalidRequest("the multipart body ends before its closing boundary", code="invalid_multipart")
        if not self._has_file:
            message = f"the form has no part named `{self._file_field}` with a filename"
            raise InvalidRequest(message, param=self._file_field, code="missing_field")
        if self._writer.size == 0:
            raise InvalidRequest(f"{self.filename!r} is empty", param=self._file_field, code="empty_file")

    def _begin(self) -> None:
        self._part = _FormPart()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._part.name = _text(options.get(b"name", b""))
            if b"filename" in options:
                self._part.filename = safe_name(_text(options[b"filename"]))
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers(self) -> None:
        name = self._part.name
        if name == self._file_field:
            if self._has_file:
                message = f"the form has two parts named `{name}`; send one file per request"
                raise InvalidRequest(message, param=name)
            self._has_file = True
            self.filename = self._part.filename or "upload"
        elif name in self.fields or len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequest(f"the form has the field {name!r} twice, or too many fields", param=name or None)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == self._file_field:
            if self._writer.size + end - start > self._limit:
                message = f"a file may have at most {self._limit:,} bytes"
                raise TooLarge(message, param=self._file_field, code="file_too_large")
            self._writer.write(memoryview(data)[start:end])
            return
        if len(self._part.data) + end - start > _MAX_FIELD_BYTES:
            message = f"the field {self._part.name!r} is longer than {_MAX_FIELD_BYTES:,} bytes"
            raise InvalidRequest(message, param=self._part.name or None)
        self._part.data += data[start:end]

    def _end(self) -> None:
        if self._part.name != self._file_field:
            self.fields[self._part.name] = _text(bytes(self._part.data))

    def _on_end(self) -> None:
        self._complete = True


def safe_name(name: str) -> str:
    """A file name for display, never used as a path: no folders, no control characters, at most 255 characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in last if character.isprintable())[:255] or "upload"


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        sent = f"not {content_type.partition(';')[0]!r}" if content_type else "but the request has no Content-Type"
        raise NotMultipart(f"a file must be uploaded as multipart/form-data, {sent}")
    if not options.get(b"boundary"):
        raise InvalidRequest("the Content-Type has no boundary", code="invalid_multipart")
    return options[b"boundary"]


class NotMultipart(InvalidRequest):
    """A file was not uploaded as multipart/form-data."""

    status = 415
    code = "unsupported_media_type"


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
