"""What the OpenAPI page says beyond the code: tags, errors, examples to try."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

DESCRIPTION: Final = """
Fine-tuning jobs with a **freeze policy**: which parameters and buffers must not change. Every job ends with
**evidence**, a signed statement about every tensor, with which anyone can check offline (`permafrost verify`) that the
frozen weights are bit-identical to the base.

The official `openai` SDK speaks to this service unmodified: `OpenAI(base_url="http://host:port/v1", api_key=...)`.
Our own fields ride in `extra_body` and come back as extra fields.

**Errors** come in OpenAI's envelope, with the path of the offending field in `param`; with
`Accept: application/problem+json` as an RFC 9457 problem. **Lists** are keyset pages: pass the last id as `after`.
**Polling**: send `If-None-Match` and `Prefer: wait=30`.
"""

TAGS: Final = [
    {"name": "Fine-tuning", "description": "Jobs: create, list, read, control, watch."},
    {"name": "Evidence", "description": "What changed and what did not: verdict, signed attestation, every tensor."},
    {"name": "Freeze policies", "description": "What a policy would freeze, without training."},
    {"name": "Files", "description": "Training data, uploaded once and used by any job of the project."},
    {"name": "Models", "description": "Base models and the results of jobs: manifest, download, registration."},
    {"name": "Webhooks", "description": "Where events are sent, signed as Standard Webhooks has it."},
    {"name": "Audit log", "description": "Who changed what."},
    {"name": "Operations", "description": "For whoever runs the service."},
]


class ErrorDetail(BaseModel):
    line: int | None = Field(default=None, description="Of a data file, from 1.")
    field: str | None = None
    code: str
    message: str


class ErrorBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "message": "training_file: this field is required",
                    "type": "invalid_request_error",
                    "param": "training_file",
                    "code": "missing_field",
                }
            ]
        }
    )

    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "insufficient_quota",
        "server_error",
    ]
    param: str | None = Field(description="Dotted path of what was wrong, such as `freeze_policy.rules[0].select`.")
    code: str | None
    errors: list[ErrorDetail] = Field(default=[], description="Every problem; for data, with line and field.")


class Error(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorBody


#: What each of them looks like: message, type, param, code.
_EXAMPLES: Final = {
    400: ("training_file: this field is required", "invalid_request_error", "training_file", "missing_field"),
    401: ("an API key is needed, as `Authorization: Bearer pf_...`", "authentication_error", None, "invalid_api_key"),
    403: (
        "this needs a key with the role writer; this one has the role reader",
        "permission_error",
        None,
        "insufficient_permissions",
    ),
    404: (
        "no fine-tuning job 'ftjob-0' in this project",
        "invalid_request_error",
        "fine_tuning_job_id",
        "not_found",
    ),
    405: ("PUT is not allowed on /v1/files; see the Allow header", "invalid_request_error", None, "method_not_allowed"),
    408: ("nothing of the body came for 60 seconds", "invalid_request_error", None, "request_timeout"),
    409: (
        "job ftjob-0 cannot be paused: it has already ended (cancelled)",
        "invalid_request_error",
        None,
        "invalid_state",
    ),
    410: (
        "model ft:m:default::0:ckpt-step-5 is gone: it was not kept",
        "invalid_request_error",
        "model",
        "model_gone",
    ),
    413: (
        "the body is larger than the 1,048,576 bytes that this endpoint takes",
        "invalid_request_error",
        None,
        "request_too_large",
    ),
    415: (
        "the body must be sent with Content-Type: application/json, not 'text/plain'",
        "invalid_request_error",
        None,
        "unsupported_media_type",
    ),
    416: (
        "the range 'bytes=900-' lies outside of the file's 204 bytes",
        "invalid_request_error",
        None,
        "range_not_satisfiable",
    ),
    422: (
        "this Idempotency-Key was used for another request",
        "invalid_request_error",
        None,
        "idempotency_key_reused",
    ),
    429: (
        "this project may have 10,000 jobs that have not ended and has 10,000; wait for one to end, or cancel one",
        "insufficient_quota",
        None,
        "insufficient_quota",
    ),
    500: (
        "The server had an error while processing the request; quote req_0 to whoever runs it",
        "server_error",
        None,
        "internal_error",
    ),
    503: ("the object store does not answer", "server_error", None, "storage_unavailable"),
    507: ("there is no room left for the file; nothing was kept", "server_error", None, "out_of_space"),
}
_IN_FLIGHT: Final = (
    "a request with this Idempotency-Key is under way; ask again in a second",
    "invalid_request_error",
    None,
    "idempotency_key_in_flight",
)


def _error(description: str) -> dict[str, Any]:
    return {"model": Error, "description": description}


def error_example(status: str, *, operation: str) -> dict[str, Any]:
    """What such an error looks like; put into the document by itself, since the framework drops nulls of examples."""
    found = _IN_FLIGHT if (status, operation) == ("409", "createFineTuningJob") else _EXAMPLES[int(status)]
    return {"error": dict(zip(("message", "type", "param", "code"), found, strict=True))}


#: On every route.
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: _error("The request is wrong; `param` says where."),
    401: _error("The API key is missing or wrong."),
    403: _error("The key's role does not reach this far."),
    404: _error("No such object in this project."),
    405: _error("Not a method of this URL."),
    408: _error("The body stopped coming."),
    413: _error("The body is too large."),
    415: _error("The body has another Content-Type than the one that is read."),
    429: _error("A spent quota of the project: waiting does not help."),
    500: _error("Our fault; quote the header x-request-id."),
    503: _error("The place where files are kept does not answer; the message says why."),
    507: _error("No room is left. Nothing was kept, and the same request works once there is room."),
}
CONFLICT: Final[dict[int | str, dict[str, Any]]] = {
    409: _error(
        "The object's state does not allow it. `x-should-retry: false` keeps the SDK from repeating the request."
    )
}

GONE: Final[dict[int | str, dict[str, Any]]] = {
    410: _error("A checkpoint that is not kept any more; the message says why.")
}

ONE_REQUEST: Final[dict[int | str, dict[str, Any]]] = {
    409: _error("A request with this Idempotency-Key is under way: ask again after `Retry-After`."),
    422: _error("The Idempotency-Key was used for another request."),
}

UPLOAD_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {
                            "type": "string",
                            "enum": ["fine-tune", "user_data", "batch", "assistants", "vision", "evals"],
                            "description": "`fine-tune` for training and validation files.",
                        },
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                        "file": {"type": "string", "format": "binary"},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


#: A parameter with names of the caller's own: `metadata[team]=search`, or all of it `null`.
METADATA_FILTER: Final[dict[str, Any]] = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "style": "deepObject",
    "explode": True,
    "description": "Only jobs with these entries, as `metadata[key]=value`; `metadata=null`: jobs without metadata.",
    "example": {},
    "schema": {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 512}},
}

#: One server-sent event; OpenAPI 3.1 describes a stream by its events.
_EVENT: Final = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string", "description": "Where a stream goes on that breaks off behind this event."},
        "event": {"type": "string"},
        "data": {"type": "string", "description": "The object as JSON; in the last event, `[DONE]`."},
    },
}


def _stream(what: str, id: str, data: str, **more: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    stream = {"text/event-stream": {"schema": _EVENT, "example": {"id": id, "data": data}}}
    description = f"A page of {what}, or with `stream=true` server-sent events, which end with `data: [DONE]`."
    return {200: {"description": description, "content": {**stream, **more}}}


EVENT_STREAM: Final = _stream("events", "ftevent-1", '{"id":"ftevent-1","object":"fine_tuning.job.event"}')
METRIC_STREAM: Final = _stream("points", "1", '{"step":1,"split":"train","seq":1,"values":{"loss":1.8}}')
LOG_TEXT: Final = _stream(
    "lines",
    "1",
    '{"id":"1","line":1,"attempt":1,"text":"a line"}',
    **{"text/plain": {"schema": {"type": "string"}, "example": "a line\n"}},
)

ENVELOPE: Final = {
    "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCAuLi59",
    "payloadType": "application/vnd.in-toto+json",
    "signatures": [
        {"keyid": "d93aff4256f8760adfaac8f29c3d8585b7988653dcbaf36f7362f65bf135c3ce", "sig": "c2lnbmF0dXJl"},
    ],
}
BUNDLE: Final = {
    "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "verificationMaterial": {"publicKey": {"hint": "d93aff4256f8760a"}, "tlogEntries": []},
    "dsseEnvelope": ENVELOPE,
}

BINARY: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range that was asked for."},
    304: {"description": "The caller has these bytes already (`If-None-Match`)."},
    416: _error("The range lies outside of the file."),
}
