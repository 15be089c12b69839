"""Checks that a folder's weight files are all present and hold all of a model's body.

A missing tensor would be initialised at random, frozen, and be called identical to the base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from app.errors import ModelError

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
MAX_BYTES = 64 << 20
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def check_files(folder: Path) -> None:
    """Raises ModelError unless there is one file of weights, or an index whose files are all beside it."""
    if (folder / WHOLE).is_file():
        return
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(f"the model's folder has neither {WHOLE} nor {INDEX}", param="model")
    if index.stat().st_size > MAX_BYTES:
        raise ModelError(f"{INDEX} is larger than {MAX_BYTES:,} bytes", param="model")
    try:
        content = json.loads(index.read_bytes())
        named = set(content["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{INDEX} has no weight_map from names of tensors to names of files", param="model") from None
    for name in sorted(map(str, named)):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelError(f"{INDEX} names {name!r:.200}, which is no safetensors file beside it", param="model")
        if not (folder / name).is_file():
            raise ModelError(f"{INDEX} names {name!r:.200}, which is not there", param="model")


def refuse_holes(missing: Collection[str], model: Collection[str], *, body: str) -> None:
    """ModelError where some layers of a kind, or some tensors of a module, are in the files and others are not.

    What is missing as a whole, such as a pooler, is new; so is a head, which is not of the `body` (a prefix of names).
    """
    held = {name for name in model if name.startswith(body)} - set(missing)
    kinds = {_NUMBER.sub("N", name) for name in held}
    modules = {name.rpartition(".")[0] for name in held} - {""}
    lacking = (name for name in missing if name.startswith(body))
    holes = sorted(n for n in lacking if _NUMBER.sub("N", n) in kinds or n.rpartition(".")[0] in modules)
    if holes:
        more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
        raise ModelError(
            f"the model's files are not all of it: they lack {', '.join(holes[:5])}{more}, and hold the tensors beside "
            "these; compare config.json with the files",
            param="model",
            code="missing_tensors",
        )
