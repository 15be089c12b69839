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
        "rate_limit_error",
        "insufficient_quota",
        "server_error",
    ]
    param: str | None = Field(description="Dotted path of what was wrong, such as `freeze_policy.rules[0].select`.")
    code: str | None
    errors: list[ErrorDetail] = Field(default=[], description="Every problem; for data, with line and field.")


class Error(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorBody


def _error(description: str) -> dict[str, Any]:
    return {"model": Error, "description": description}


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
    429: _error("Too many requests: wait for `Retry-After`. Or a spent quota: waiting does not help."),
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

BINARY: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range that was asked for."},
    304: {"description": "The caller has these bytes already (`If-None-Match`)."},
    416: _error("The range lies outside of the file."),
}

_AFFINE: Final = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}}


def _job(summary: str, description: str, **value: Any) -> dict[str, Any]:
    example = {"training_file": "file-5f0c1d2e3a4b5c6d7e8f9a0b", "seed": 42, **value}
    return {"summary": summary, "description": description, "value": example}


#: To try from the page, which puts a small table in the place of their file; the first three freeze the same weight
#: by the field's three mechanisms.
JOB_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "requires_grad": _job(
        "Freeze `weight` with requires_grad",
        "The attribute is false: autograd computes no gradient for it.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "mechanism": "requires_grad"},
    ),
    "detach": _job(
        "Freeze `weight` with detach()",
        "It takes part in the forward pass through `detach()`; gradient still flows to earlier layers.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "mechanism": "detach"},
    ),
    "param_group": _job(
        "Freeze `weight` by leaving it out of the optimizer",
        "It is in none of the optimizer's parameter groups.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "mechanism": "param_group"},
    ),
    "dry_run": _job(
        "Only look: what would become of it",
        "Checks the request, the files and the policy, previews the plan and estimates time, memory and cost. No job.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"]},
        dry_run=True,
    ),
    "audit": _job(
        "The mistake: `requires_grad` as a group option",
        "Optimizers accept this key and ignore it. With `enforce: false` the job runs; its evidence says `violated`.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "enforce": False, "on_violation": "continue"},
        hyperparameters={
            "optimizer": {
                "name": "sgd",
                "groups": [
                    {"select": {"name": "weight"}, "options": {"requires_grad": False}},
                    {"select": {"name": "bias"}, "options": {"lr": 0.01}},
                ],
            }
        },
    ),
    "encoder": _job(
        "A text classifier over a frozen encoder",
        "The encoder stays as it is, its buffers too; only the head trains.",
        model={"type": "transformers", "path": "minilm", "task": "text-classification"},
        freeze_policy={"freeze": ["bert.**"]},
        hyperparameters={"n_epochs": 5, "batch_size": 32},
        suffix="docs",
        metadata={"team": "search"},
    ),
    "layers": _job(
        "Rules: the first four layers and the embeddings",
        "Ordered rules, first match wins; `expect` refuses the job if a rule does not decide what its author believes.",
        model="minilm",
        freeze_policy={
            "default": "train",
            "rules": [
                {
                    "id": "encoder",
                    "action": "freeze",
                    "select": {"layers": {"path": "bert.encoder.layer", "first": 4}},
                    "expect": {"tensors": 64},
                },
                {
                    "id": "embeddings",
                    "action": "freeze",
                    "mechanism": "detach",
                    "select": {"name": "bert.embeddings.**"},
                },
            ],
        },
    ),
}

_ENCODER: Final = {"type": "transformers", "path": "minilm"}
_DECODER: Final = {"type": "transformers", "path": "smollm"}

#: One of each task; docs/training.md has their files.
TASK_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "causal-lm": _job(
        "Chats, with packing",
        'Lines of {"messages": [...]}: the assistant\'s answers are learned, behind frozen first layers.',
        model=_DECODER,
        freeze_policy={"freeze": ["model.layers.0.**"]},
        hyperparameters={"n_epochs": 2, "packing": True, "max_length": 2048},
    ),
    "preference": _job(
        "Preferences, by DPO",
        'Lines of {"prompt", "chosen", "rejected"}, or of OpenAI\'s shape. The reference is the base itself.',
        model=_DECODER,
        freeze_policy={"train": ["model.layers.1.**"]},
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 1}}},
    ),
    "text-regression": _job(
        "Numbers for texts",
        'Lines of {"text", "label"} with a number as label.',
        model=_ENCODER,
        task="text-regression",
        freeze_policy={"freeze": ["bert.embeddings.**"]},
        hyperparameters={"validation_fraction": 0.1, "early_stopping_patience": 3},
    ),
    "token-classification": _job(
        "Labels for words",
        'Lines of {"tokens": [...], "labels": [...]}; hidden matrices by Muon.',
        model=_ENCODER,
        task="token-classification",
        freeze_policy={"freeze": ["bert.embeddings.**"], "mechanism": "detach"},
        hyperparameters={"optimizer": {"name": "muon"}},
    ),
    "pairs": _job(
        "Embeddings",
        'Lines of {"anchor", "positive"}: every other positive of the batch is a negative.',
        model=_ENCODER,
        task="pairs",
        freeze_policy={"freeze": ["embeddings.**"]},
        hyperparameters={"batch_size": 64, "temperature": 0.05},
    ),
    "image-classification": _job(
        "Pictures",
        "Parquet with `image` (bytes) and `label`, or JSONL with base64; frozen BatchNorm keeps its statistics, too.",
        model={"type": "torch", "architecture": "convnet", "kwargs": {"num_classes": 2}, "task": "classification"},
        freeze_policy={"freeze": ["features.**"]},
    ),
    "tabular-classification": _job(
        "A table",
        "CSV or Parquet; the columns are named, or the last one is the target.",
        model={
            "type": "torch",
            "architecture": "mlp",
            "kwargs": {"in_features": 2, "out_features": 2},
            "task": "classification",
        },
        data={"features": ["width", "height"], "target": "kind"},
        freeze_policy={"freeze": ["0.weight"]},
    ),
}

PREVIEW_EXAMPLES: Final = {
    "affine": {
        "summary": "One frozen weight",
        "value": {"model": _AFFINE, "freeze_policy": {"freeze": ["weight"], "mechanism": "detach"}},
    },
    "encoder": {
        "summary": "A frozen encoder under a new head of four classes",
        "value": {
            "model": {"type": "transformers", "path": "minilm", "task": "text-classification", "num_labels": 4},
            "freeze_policy": {"freeze": ["bert.**"]},
        },
    },
}
