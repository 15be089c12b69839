"""Reads the JSON configuration files of a model, which are not trusted: no code, kernels or quantisation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.errors import ModelError

# Each makes transformers run or fetch code that does not come with it, or keep weights in another form than stored.
FORBIDDEN = frozenset(
    {"auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "compression_config"}
)
FORBIDDEN_ENDINGS = ("attn_implementation", "attn_implementation_internal", "experts_implementation", "use_kernels")
MAX_BYTES = 8 << 20
MAX_DEPTH = 32
# A model is built from these before any weight is compared with it: numbers that no model has would build for ever.
LARGEST = {
    ("layers", "_layer", "depth", "depths"): 1_000,
    ("_size", "_dim", "_embd", "_inner", "_heads", "_experts", "num_labels", "d_model", "_embeddings"): 1 << 24,
}


def read(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. ModelError where it is not one, is too large, or has a forbidden key at any depth."""
    name = path.name
    if not path.is_file():
        raise ModelError(f"the model's folder has no {name}", param="model")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{name} is larger than {MAX_BYTES} bytes", param="model")
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        raise ModelError(f"{name} is nested too deeply", param="model") from None
    except ValueError as error:
        raise ModelError(f"{name} is not JSON: {error}", param="model") from None
    if not isinstance(content, dict):
        raise ModelError(f"{name} holds a {type(content).__name__}, not an object", param="model")
    for where in _forbidden(content):
        raise ModelError(
            f"{name} holds {where!r}, which is refused: nothing in a model may choose code to run", param="model"
        )
    if name == "config.json":
        for where, value, most in _beyond(content):
            raise ModelError(f"{name}: {where} is {value:,}, and {most:,} is the most that is built", param="model")
    return content


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


def _forbidden(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"{path[:80]} (nested deeper than {MAX_DEPTH})"
    elif isinstance(value, dict):
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            if item is not None and (key in FORBIDDEN or key.endswith(FORBIDDEN_ENDINGS)):
                yield where
            yield from _forbidden(item, where, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _forbidden(item, f"{path}[{index}]", depth + 1)
