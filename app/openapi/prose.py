"""Texts and response descriptions of the API page that no route owns: introduction, tags, errors, streams."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.openapi.load import load_examples

DESCRIPTION: Final = """
Fine-tuning jobs with a **freeze policy**: which parameters and buffers must not change. Every job ends with
**evidence**, a signed statement about every tensor, with which anyone can check offline (`permafrost verify`) that the
frozen weights are bit-identical to the base.

The official `openai` SDK works with this service unmodified: `OpenAI(base_url="http://host:port/v1", api_key=...)`.
Send our own fields in `extra_body`; responses have them as extra fields.

**Errors** use OpenAI's envelope, with the path of the wrong field in `param`, or with
`Accept: application/problem+json` an RFC 9457 problem. **Lists** are keyset pages: pass the last id as `after`.
**Polling**: send `If-None-Match` and `Prefer: wait=30`.

The [guide](/guide/) has tutorials, freeze policies, what evidence proves, and how to run the service.
"""

TAGS: Final = [
    {"name": "Fine-tuning", "description": "Jobs: create, list, read, control, watch."},
    {"name": "Sweeps", "description": "Several jobs on one base and one data set, ranked by one metric."},
    {
        "name": "Evidence",
        "description": "What changed and what did not: verdict, signed attestation, all tensors.",
    },
    {"name": "Freeze policies", "description": "Previews of what a policy would freeze, without training."},
    {"name": "Files", "description": "Training data, uploaded once and usable by every job of the project."},
    {"name": "Uploads", "description": "Files in parts, for what is larger than one request should be."},
    {"name": "Models", "description": "Base models and the results of jobs: manifest, download, registration."},
    {"name": "Webhooks", "description": "Endpoints that events are sent to, signed according to Standard Webhooks."},
    {"name": "Secrets", "description": "Tokens and keys for other services, which go in and never come out."},
    {"name": "Audit log", "description": "Who changed what."},
    {"name": "Operations", "description": "Health and metrics, for the operator of the service."},
]


class ErrorDetail(BaseModel):
    line: int | None = Field(default=None, description="Line of a data file, from 1.")
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
    errors: list[ErrorDetail] = Field(default=[], description="All problems; in data files with line and field.")


class Error(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorBody


class ProblemDetails(BaseModel):
    """The same error as an RFC 9457 problem, for requests with `Accept: application/problem+json`."""

    type: str = Field(description="`/guide/errors/` and the error's code: the page of it on this service.")
    title: str = Field(description="The phrase of the status.")
    status: int
    detail: str = Field(description="The error's message.")
    instance: str = Field(description="Path of the request.")
    error: ErrorBody


_EXAMPLES: Final = load_examples("errors")


def _error(description: str) -> dict[str, Any]:
    return {"model": Error, "description": description}


def error_example(status: str, *, operation: str) -> dict[str, Any]:
    """An example of such an error. The document adds it by itself, since FastAPI drops nulls from examples."""
    return {"error": _EXAMPLES.get(f"{status} {operation}") or _EXAMPLES[status]}


def deleted_job() -> dict[str, Any]:
    """The answer of every operation on one job, once that was deleted."""
    description = "A job that was deleted; the message has the digest of its attestation."
    return {"description": description, "content": {"application/json": {"example": {"error": _EXAMPLES["410 job"]}}}}


#: Errors of every route.
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: _error("The request is wrong; `param` says where."),
    401: _error("The API key is missing or wrong."),
    403: _error("The key's role does not permit this."),
    404: _error("No such object in this project."),
    405: _error("This URL does not take this method."),
    408: _error("The body stopped coming."),
    413: _error("The body is too large."),
    415: _error("The Content-Type of the body is not the documented one."),
    429: _error("A spent quota of the project: waiting does not help."),
    500: _error("An error of the service; report the x-request-id header."),
    503: _error("The blob storage does not answer; the message says why."),
    507: _error("The disk is full. Nothing was stored; the same request works once space is free."),
}
CONFLICT: Final[dict[int | str, dict[str, Any]]] = {
    409: _error(
        "The object's state does not allow it. `x-should-retry: false` keeps the SDK from repeating the request."
    )
}

PENDING: Final[dict[int | str, dict[str, Any]]] = {
    409: _error("A worker has yet to read the model's tensors: repeat the request after `Retry-After`."),
}

GONE: Final[dict[int | str, dict[str, Any]]] = {410: _error("A checkpoint that was deleted; the message says why.")}

ONE_REQUEST: Final[dict[int | str, dict[str, Any]]] = {
    409: _error("A request with this Idempotency-Key is running: repeat it after `Retry-After`."),
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


PART_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary", "description": "At most 64 MiB."}},
                    "additionalProperties": False,
                }
            }
        },
    }
}


#: A parameter whose keys the caller chooses: `metadata[team]=search`, or `metadata=null`.
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
        "id": {"type": "string", "description": "Send it as `Last-Event-ID` to continue a stream after this event."},
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

_ATTESTATION: Final = load_examples("attestation")
ENVELOPE: Final = _ATTESTATION["envelope"]
BUNDLE: Final = _ATTESTATION["bundle"]
CHECKPOINT: Final = load_examples("responses")["TransparencyLog"]["checkpoint"]

_BOMS: Final = load_examples("bom")
REPORT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One HTML file that loads nothing.",
        "content": {"text/html": {"schema": {"type": "string"}, "example": "<!doctype html>…"}},
    },
}

BOM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bill of materials, in the requested format.",
        "content": {
            media_type: {"schema": {"type": "object"}, "example": _BOMS[name]}
            for name, media_type in (
                ("cyclonedx", "application/vnd.cyclonedx+json; version=1.7"),
                ("spdx", "application/spdx+json"),
            )
        },
    },
}

BINARY: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The requested range."},
    304: {"description": "The caller already has these bytes (`If-None-Match`)."},
    416: _error("The range is outside of the file."),
}
