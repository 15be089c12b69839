"""The OpenAPI document: FastAPI's, made to say what this service does."""

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.openapi.answers import ANSWERS
from app.openapi.prose import Error, error_example

#: Operations that answer 422: a key that was used for another request.
_UNPROCESSABLE: Final = frozenset({"createFineTuningJob"})


def install(application: FastAPI, *, keys_required: bool) -> None:
    """Builds the document at its first use; `keys_required` says whether the API can be used without a key."""

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
    for operation in _operations(document):
        if operation["operationId"] not in _UNPROCESSABLE:
            operation["responses"].pop("422", None)  # FastAPI's own; a request that is wrong gets 400 here
        if not keys_required and "security" in operation:
            operation["security"].append({})
        _exemplify_errors(operation)
        _no_null(operation)
    schemas = document["components"]["schemas"]
    _exemplify(schemas)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    assert Error.__name__ in schemas
    return document


def _exemplify(schemas: dict[str, Any]) -> None:
    """An example for every answer; a list's is made of its items'."""
    for name, example in ANSWERS.items():
        schemas[name]["examples"] = [example]
    for schema in schemas.values():
        properties = schema.get("properties", {})
        item = properties.get("data", {}).get("items", {}).get("$ref", "").rpartition("/")[2]
        for example in schemas.get(item, {}).get("examples", [])[:1]:
            found = {"object": "list", "data": [example], "has_more": False, "sampled": False}
            found |= {"lines": 1, "kept_from": 1}
            found |= {"first_id": example.get("id"), "last_id": example.get("id")}
            made = {key: value for key, value in found.items() if key in properties}
            schema.setdefault("examples", [made])


def _exemplify_errors(operation: dict[str, Any]) -> None:
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json")
        if status >= "400" and content:
            content["example"] = error_example(status, operation=operation["operationId"])


def _no_null(operation: dict[str, Any]) -> None:
    """A parameter that is left out is not sent: there is no null in a query or a header."""
    for parameter in operation.get("parameters", []):
        branches = parameter["schema"].get("anyOf", [])
        given = [each for each in branches if each != {"type": "null"}]
        if len(given) == 1 < len(branches):
            del parameter["schema"]["anyOf"]
            parameter["schema"] = {**given[0], **parameter["schema"]}


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()
