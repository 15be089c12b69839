"""Completes FastAPI's OpenAPI document: examples, real error statuses, optional authentication."""

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.openapi.load import load_examples
from app.openapi.prose import Error, ProblemDetails, deleted_job, error_example

_REFERENCE: Final = "#/components/schemas/{model}"
#: Operations that answer 422, for an Idempotency-Key that was used for another request.
_UNPROCESSABLE: Final = frozenset({"createFineTuningJob", "createFineTuningSweep"})


def install(application: FastAPI, *, keys_required: bool) -> None:
    """Builds the document when it is first used. `keys_required` is whether every request needs an API key."""

    def openapi() -> dict[str, Any]:
        if application.openapi_schema is None:
            application.openapi_schema = _document(application, keys_required=keys_required)
        return application.openapi_schema

    application.openapi = openapi  # type: ignore[method-assign]


def _document(application: FastAPI, *, keys_required: bool) -> dict[str, Any]:
    document = get_openapi(
        title=application.title,
        version=application.version,
        description=application.description,
        routes=application.routes,
        tags=application.openapi_tags,
        contact=application.contact,
        license_info=application.license_info,
        servers=[{"url": "/", "description": "This service"}],
    )
    for path, operation in _operations(document):
        if "{fine_tuning_job_id}" in path:
            operation["responses"]["410"] = deleted_job()
        if operation["operationId"] not in _UNPROCESSABLE:
            operation["responses"].pop("422", None)  # FastAPI's default; here a wrong request gets 400
        if not keys_required and "security" in operation:
            operation["security"].append({})
        _describe_errors(operation)
        _no_null(operation)
    schemas = document["components"]["schemas"]
    _exemplify(schemas)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    assert Error.__name__ in schemas
    schemas[ProblemDetails.__name__] = ProblemDetails.model_json_schema(ref_template=_REFERENCE)
    schemas[ProblemDetails.__name__].pop("$defs")
    return document


def _exemplify(schemas: dict[str, Any]) -> None:
    """Adds an example to every response schema. The example of a list is made from that of its items."""
    for name, example in load_examples("responses").items():
        schemas[name]["examples"] = [example]
    for schema in schemas.values():
        properties = schema.get("properties", {})
        item = properties.get("data", {}).get("items", {}).get("$ref", "").rpartition("/")[2]
        for example in schemas.get(item, {}).get("examples", [])[:1]:
            fields = {"object": "list", "data": [example], "has_more": False, "sampled": False}
            fields |= {"lines": 1, "kept_from": 1, "post_quantum": [], "log_keys": []}
            fields |= {"first_id": example.get("id"), "last_id": example.get("id")}
            schema.setdefault("examples", [{name: value for name, value in fields.items() if name in properties}])


def _describe_errors(operation: dict[str, Any]) -> None:
    """Gives every error response its two content types, whatever that of a success is, and an example of each."""
    for status, response in operation["responses"].items():
        if status >= "400" and response.get("content"):
            own = response["content"].get("application/json", {}).get("example")
            example = own or error_example(status, operation=operation["operationId"])
            response["content"] = {
                "application/json": {"schema": {"$ref": _REFERENCE.format(model=Error.__name__)}, "example": example},
                "application/problem+json": {"schema": {"$ref": _REFERENCE.format(model=ProblemDetails.__name__)}},
            }


def _no_null(operation: dict[str, Any]) -> None:
    """Removes null from the types of parameters: a query or a header has no null, a parameter is left out instead."""
    for parameter in operation.get("parameters", []):
        branches = parameter["schema"].get("anyOf", [])
        given = [branch for branch in branches if branch != {"type": "null"}]
        if len(given) == 1 < len(branches):
            del parameter["schema"]["anyOf"]
            parameter["schema"] = {**given[0], **parameter["schema"]}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        yield from ((path, operation) for operation in operations.values())
