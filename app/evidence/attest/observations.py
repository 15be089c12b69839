"""Reads `observations.json`, in which the trainer reports what it saw of every live tensor.

The verdict uses these values only where the files agree with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.evidence.format.statement import FrozenInterval
from app.freeze.plan import TensorInfo

RowRanges = dict[str, set[tuple[int, int]]]


class ObservationsError(ValueError):
    """An `observations.json` with missing or malformed fields."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored tensor and the rows of the live tensor that it holds (None: all rows)."""

    name: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTensor:
    """One live tensor as the trainer observed it."""

    info: TensorInfo
    loaded: str | None
    trained: str | None
    base: tuple[Piece, ...]
    result: tuple[Piece, ...]
    slices: tuple[tuple[tuple[int, int], str | None, str | None], ...]  # rows, loaded, trained
    intervals: tuple[FrozenInterval, ...]
    first_changed_step: int | None
    base_rows: int | None = None  # of a tensor that has more rows than its base tensor: the base's


def read_observations(document: Any) -> list[ObservedTensor]:
    """The tensors of a parsed `observations.json`. Raises ObservationsError with the field that is missing or wrong."""
    try:
        return [_seen(tensor) for tensor in document["tensors"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ObservationsError(f"observations.json cannot be read: {type(error).__name__} {error}") from error


def rows_needed(observed: Sequence[ObservedTensor]) -> tuple[RowRanges, RowRanges]:
    """Row ranges whose digests the verdict needs: by name in the base file, and by name in the result file."""
    base: RowRanges = {}
    result: RowRanges = {}
    for tensor in observed:
        if any(piece.rows for piece in (*tensor.base, *tensor.result)):
            continue  # each piece is a stored tensor of its own, with a digest of its own
        for rows, _, _ in tensor.slices:
            for piece in tensor.base if tensor.base_rows is None or rows[1] <= tensor.base_rows else ():
                base.setdefault(piece.name, set()).add(rows)
            for piece in tensor.result:
                result.setdefault(piece.name, set()).add(rows)
    return base, result


def _seen(tensor: Mapping[str, Any]) -> ObservedTensor:
    return ObservedTensor(
        info=TensorInfo.from_json(tensor),
        loaded=_digest(tensor.get("loaded")),
        trained=_digest(tensor.get("trained")),
        base=_pieces(tensor.get("base")),
        result=_pieces(tensor.get("result")),
        slices=tuple(
            (_pair(entry["rows"]), _digest(entry.get("loaded")), _digest(entry.get("trained")))
            for entry in tensor.get("slices") or ()
        ),
        intervals=tuple(
            FrozenInterval(int(entry["from_step"]), entry["to_step"], str(entry["before"]), str(entry["after"]))
            for entry in tensor.get("intervals") or ()
            if entry.get("before") and entry.get("after")
        ),
        first_changed_step=tensor.get("first_changed_step"),
        base_rows=int(tensor["base_rows"]) if tensor.get("base_rows") is not None else None,
    )


def _pieces(value: Any) -> tuple[Piece, ...]:
    """The pieces in a name, a list of pieces, or null."""
    if not value:
        return ()
    if isinstance(value, str):
        return (Piece(value),)
    return tuple(Piece(each["name"], _pair(each["rows"]) if each.get("rows") else None) for each in value)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    start, stop = value
    return int(start), int(stop)


def _digest(value: Any) -> str | None:
    """A SHA-256 in lower-case hex, or None. Raises ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not a SHA-256 in lower-case hex")
    return value
