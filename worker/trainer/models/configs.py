"""Reads a model's JSON configuration files, which are not trusted: keys that choose code or kernels are removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.errors import ModelError
from app.evidence.format.quantised import QuantisationError, quantisation_of
from app.jsontypes import JsonDict
from worker.trainer.models import pointers

# Keys that would have transformers run or fetch code that does not come with it. Published models carry them beside
# configurations that its own classes read as well: they are removed before it sees them.
IGNORED = frozenset({"auto_map", "trust_remote_code", "custom_pipelines"})
IGNORED_ENDINGS = ("attn_implementation", "attn_implementation_internal", "experts_implementation", "use_kernels")
MAX_BYTES = 8 << 20
MAX_DEPTH = 32
# A model is built from these before any weight is compared with it: numbers that no model has would build for ever.
LARGEST = {
    ("layers", "_layer", "depth", "depths"): 1_000,
    ("_size", "_dim", "_embd", "_inner", "_heads", "_experts", "num_labels", "d_model", "_embeddings"): 1 << 24,
}


def read(path: Path) -> JsonDict:
    """The JSON object in `path` without the keys that are ignored, at any depth.

    Raises ModelError where it is not a JSON object, is too large or too deep, or describes weights in a quantised form
    that is not read.
    """
    content = _parsed(path)
    _refuse_quantised(content, path.name)
    if path.name == "config.json":
        for where, value, most in _beyond(content):
            raise ModelError(
                f"config.json: {where} is {value:,}, and {most:,} is the most that is built", param="model"
            )
    cleaned: JsonDict = _without_ignored(content)
    return cleaned


def ignored_keys(path: Path) -> list[str]:
    """Where `path` has keys that `read` removes, such as `auto_map` and `text_config._attn_implementation`."""
    return sorted(_ignored(_parsed(path)))


def paths_of(path: Path, value: object) -> list[str]:
    """Where `path` has a value, such as `text_config.hidden_act`."""
    return [where for where, found in _entries(_parsed(path)) if found == value]


def _parsed(path: Path) -> JsonDict:
    name = path.name
    if not path.is_file():
        raise ModelError(f"the model's folder has no {name}", param="model")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{name} is larger than {MAX_BYTES} bytes", param="model")
    pointers.refuse(path)
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        raise ModelError(f"{name} is nested too deeply", param="model") from None
    except ValueError as error:
        raise ModelError(f"{name} is not JSON: {error}", param="model") from None
    if not isinstance(content, dict):
        raise ModelError(f"{name} holds a {type(content).__name__}, not an object", param="model")
    if _depth(content) > MAX_DEPTH:
        raise ModelError(f"{name} is nested deeper than {MAX_DEPTH} levels", param="model")
    return content


def _refuse_quantised(content: JsonDict, name: str) -> None:
    """Raises ModelError for a quantised form that is not read; one that is read is in `config.json` alone."""
    try:
        found = quantisation_of(content)
    except QuantisationError as error:
        raise ModelError(f"{name} has {error}", param="model", code="quantised_model") from None
    if found is not None and name != "config.json":
        message = f"{name} says that weights are quantised, and config.json is where that belongs; remove it here"
        raise ModelError(message, param="model", code="quantised_model")


def _beyond(value: Any, path: str = "") -> Iterator[tuple[str, int, int]]:
    """Sizes above their limits, as (path, value, limit); numbers in a list count as the key's own."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _beyond(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from _beyond(item, path)
    elif isinstance(value, int):
        for endings, most in LARGEST.items():
            if path.endswith(endings) and value > most:
                yield path, value, most


def _is_ignored(key: str) -> bool:
    return key in IGNORED or key.endswith(IGNORED_ENDINGS)


def _without_ignored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ignored(item) for key, item in value.items() if not _is_ignored(key)}
    if isinstance(value, list):
        return [_without_ignored(item) for item in value]
    return value


def _ignored(content: JsonDict) -> Iterator[str]:
    for where, value in _entries(content):
        if value is not None and _is_ignored(where.rpartition(".")[2]):
            yield where


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of nested objects, as (dotted path, value)."""
    if isinstance(value, dict):
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            yield where, item
            yield from _entries(item, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _entries(item, f"{path}[{index}]")


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, items), default=0)
