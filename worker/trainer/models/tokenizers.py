"""Checks tokenizer.json, which is not trusted: its patterns run in a regex engine that backtracks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from app.errors import ModelError
from worker.trainer.models import pointers

#: The largest in use have 40 MB.
MAX_BYTES = 128 << 20
MAX_PATTERN = 10_000
#: Unicode classes, which this parser does not know: any class does to see how repeats are nested.
_CLASS = re.compile(r"\\[pP](\{\^?\w+\}|\w)")
_INLINE = re.compile(r"\(\?[a-z]+\)")
_REPEATS = (kinds.MAX_REPEAT, kinds.MIN_REPEAT)


def check(path: Path) -> None:
    """Raises ModelError where it is too large, is not JSON, or has a pattern that can take exponential time."""
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path.name} is larger than {MAX_BYTES:,} bytes", param="model")
    pointers.refuse(path)
    try:
        content = json.loads(path.read_bytes())
        found = list(_patterns(content))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}", param="model") from None
    for pattern in found:
        if explosive(pattern):
            message = (
                f"{path.name} holds the pattern '{pattern[:80]}', which can take exponential time: a repeat holds "
                "another repeat, or a choice"
            )
            raise ModelError(message, param="model", code="explosive_pattern")


def refuse_empty(tokenizer: Any, folder: Path) -> None:
    """Raises ModelError for a tokenizer without a vocabulary, which reads every text as nothing.

    transformers makes one where the folder has a vocabulary file that this kind of tokenizer does not read.
    """
    special = set(tokenizer.all_special_tokens)
    if len(tokenizer) > len(special) or set(tokenizer.get_vocab()) - special:
        return
    names = [name for name in getattr(tokenizer, "vocab_files_names", {}).values() if name is not None]
    present = sorted(path.name for path in folder.iterdir() if path.name.startswith(("vocab", "merges", "tokenizer")))
    message = (
        f"the tokenizer has no vocabulary: {type(tokenizer).__name__} reads {' or '.join(names)}, and the model's "
        f"folder has {', '.join(present)}"
    )
    raise ModelError(message, param="model", code="tokenizer_does_not_fit")


def refuse_odd_length(tokenizer: Any) -> None:
    """Raises ModelError where the longest text that the tokenizer allows is not a number of at least 1."""
    length = tokenizer.model_max_length
    if not isinstance(length, int | float) or length < 1:
        message = f"tokenizer_config.json: model_max_length is {length!r:.40}; it is a number of tokens, at least 1"
        raise ModelError(message, param="model")


def refuse_unreadable(folder: Path) -> None:
    """Raises ModelError where a tokenizer that could not be loaded is stored in a form that a missing package reads."""
    names = [path.name for path in sorted(folder.glob("*.model"))]
    if names and not (folder / "tokenizer.json").exists() and find_spec("sentencepiece") is None:
        message = (
            f"the tokenizer is stored as {names[0]} alone: reading it takes the package sentencepiece where the worker "
            "runs (pip install sentencepiece), or add the tokenizer.json that save_pretrained of transformers writes"
        )
        raise ModelError(message, param="model", code="invalid_model")


def explosive(pattern: str) -> bool:
    """Whether an unbounded repeat contains another one, or a choice: one text can then be matched in 2^n ways."""
    if len(pattern) > MAX_PATTERN:
        return True
    plain = _INLINE.sub("", _CLASS.sub(lambda match: r"\w", pattern))
    try:
        tree = parser.parse(plain)
    except (re.error, OverflowError, RecursionError):
        return False  # the tokenizers library may still read it; the supervisor ends an attempt that hangs
    return any(_repeats_a_repeat(each) for each in tree)


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        pattern = value.get("Regex")
        if isinstance(pattern, str):
            yield pattern
        for key, item in value.items():
            if key not in ("vocab", "merges", "added_tokens"):
                yield from _patterns(item)
    elif isinstance(value, list):
        for item in value:
            yield from _patterns(item)


def _repeats_a_repeat(node: Any, *, inside: bool = False) -> bool:
    kind, detail = node
    if kind is kinds.BRANCH and inside:
        return True
    if kind in _REPEATS:
        _, most, body = detail
        endless = most == kinds.MAXREPEAT or most > 100
        if endless and inside:
            return True
        return any(_repeats_a_repeat(each, inside=inside or endless) for each in body)
    return any(_repeats_a_repeat(each, inside=inside) for each in _children(kind, detail))


def _children(kind: Any, detail: Any) -> Iterator[Any]:
    if kind is kinds.SUBPATTERN:
        yield from detail[3]
    elif kind is kinds.BRANCH:
        for branch in detail[1]:
            yield from branch
    elif kind in (kinds.ASSERT, kinds.ASSERT_NOT):
        yield from detail[1]
    elif kind is kinds.ATOMIC_GROUP:
        yield from detail
