"""Checks that a folder's weight files are all present and hold all of a model's body.

A missing tensor would be initialised at random, frozen, and be called identical to the base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from app.errors import ModelError
from app.evidence.format.wrappers import WRAPPERS, unwrapped

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
ADAPTER = "adapter_config.json"
MAX_BYTES = 64 << 20
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def check_files(folder: Path) -> None:
    """Raises ModelError unless there is one file of weights, or an index whose files are all beside it."""
    _refuse_second_model(folder)
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
        has_metadata = isinstance(content.get("metadata"), dict)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{INDEX} has no weight_map from names of tensors to names of files", param="model") from None
    if not has_metadata:  # transformers reads it, whatever it holds
        raise ModelError(f'{INDEX} has no "metadata"; add the line "metadata": {{}}, to it', param="model")
    for name in sorted(map(str, named)):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelError(f"{INDEX} names {name!r:.200}, which is no safetensors file beside it", param="model")
        if not (folder / name).is_file():
            raise ModelError(f"{INDEX} names {name!r:.200}, which is not there", param="model")


def _refuse_second_model(folder: Path) -> None:
    """Raises ModelError for a second model: an adapter, which transformers adds without a word, or Mistral's own form.

    Mistral publishes `consolidated.safetensors` with other names for the same weights. vLLM opens it where it is there.
    """
    for path in sorted(folder.glob("consolidated*.safetensors")):
        message = (
            f"the model's folder has {path.name} beside the model: Mistral's own form of the same weights, which some "
            "loaders open in place of the other files; move it to a folder of its own"
        )
        raise ModelError(message, param="model", code="two_models")
    if (folder / ADAPTER).is_file():
        message = (
            f"the model's folder has an adapter beside the model ({ADAPTER}): these are two models; move the adapter's "
            "files to a folder of their own"
        )
        raise ModelError(message, param="model", code="two_models")


def refuse_holes(
    missing: Collection[str],
    unexpected: Collection[str],
    model: Collection[str],
    *,
    body: str,
    embeddings: Collection[str] = (),
) -> None:
    """Raises ModelError where the files lack tensors of the model's body, or hold them under a wrapper's names.

    `missing` and `unexpected` are names that only the model or only the files have; `model` are all of the model's
    names, `body` is their prefix without a head, `embeddings` the names of its input embeddings. A head may be new,
    and so may a module of the body that is missing as a whole and has no number, such as a pooler. A layer never is,
    and neither are embeddings, also where all of them are missing.
    """
    _refuse_wrapped(missing, unexpected, body=body)
    lacking = {name for name in missing if name.startswith(body)}
    held = {name for name in model if name.startswith(body)} - lacking
    modules = {name.rpartition(".")[0] for name in held} - {""}
    holes = sorted(
        name
        for name in lacking
        if not held or _NUMBER.search(name) or name in embeddings or name.rpartition(".")[0] in modules
    )
    if not holes:
        return

    more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
    others = f"; they have {', '.join(sorted(unexpected)[:3])}, which the model lacks" if unexpected else ""
    raise ModelError(
        f"the model's files are not complete: they lack {', '.join(holes[:5])}{more}{others}; compare config.json "
        "with the files",
        param="model",
        code="missing_tensors",
    )


def wrapper_of(missing: str, stored: str, *, body: str = "") -> str | None:
    """The wrapper's part of a `stored` name that would otherwise be the `missing` one; None where it is another name.

    `_orig_mod.` for `bert._orig_mod.pooler.weight` and `bert.pooler.weight`, with or without the prefix of the body.
    """
    plain = missing.removeprefix(body)
    if unwrapped(stored).removeprefix(body) == plain:
        return next((wrapper for wrapper in WRAPPERS if wrapper in stored), None)
    return stored.removesuffix(plain) if plain and stored.endswith(f".{plain}") else None


def _refuse_wrapped(missing: Collection[str], unexpected: Collection[str], *, body: str) -> None:
    by_last_part: dict[str, list[str]] = {}
    for stored in sorted(unexpected):
        by_last_part.setdefault(_tail(stored), []).append(stored)

    for name in sorted(missing):
        for stored in by_last_part.get(_tail(name), ()):
            wrapper = wrapper_of(name, stored, body=body)
            if wrapper is None or (wrapper not in WRAPPERS and not name.startswith(body)):
                continue  # a head may be called alike in another model
            origin = (
                "of a wrapper (torch.compile, DistributedDataParallel, FSDP, peft); save the model that is inside of it"
                if wrapper in WRAPPERS
                else "not in the model's names; compare config.json with the files"
            )
            message = (
                f"the model's files have {stored!r} for {name!r}: the prefix {wrapper!r} is {origin}, or remove the "
                "prefix from the names in the files"
            )
            raise ModelError(message, param="model", code="missing_tensors")


def _tail(name: str) -> str:
    """The last two parts of a name: what two spellings of it have in common."""
    return ".".join(unwrapped(name).split(".")[-2:])
