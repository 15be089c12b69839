"""Builds the rows of a statement from readings of the files and the trainer's observations."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from app.evidence.attest.observations import ObservedTensor, Piece
from app.evidence.format.block_scaled import is_coded
from app.evidence.format.digest import TensorReading
from app.evidence.format.statement import Reading, Row, RowSlice, changed
from app.freeze.plan import Decision, FreezePlan
from app.jsontypes import JsonDict


def rows_of(
    plan: FreezePlan,
    observed: Sequence[ObservedTensor],
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
    *,
    made: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """`made` are digests of what loading made of stored tensors for the computation, by base name."""
    rows: list[Row] = []
    for tensor in map(_own_name_first, observed):
        decision = plan.decision(tensor.info.name)
        if any(piece.rows for piece in (*tensor.base, *tensor.result)):
            rows += _part_rows(decision, tensor, base, result)
        else:
            rows.append(_row(decision, tensor, base, result))
            rows += _copies(rows[-1], decision, tensor, base, result)
    yield from (_with_made(row, made) if made else row for row in rows)
    used = {row.base.name for row in rows if row.base}
    for name in sorted(set(base) - used):
        yield Row(name=name, role="dropped", base=_reading(base[name]), changed=False)


def _with_made(row: Row, made: Mapping[str, str]) -> Row:
    """The row with the digest of what its stored tensor became: codes of a plain one, or a plain one of codes."""
    if row.base is None:
        return row
    digest = made.get(row.base.name)
    return row._replace(decoded=digest) if is_coded(row.base.name, row.base.dtype) else row._replace(quantised=digest)


def _own_name_first(tensor: ObservedTensor) -> ObservedTensor:
    """The tensor with its pieces in the order: stored under its own name, then under its aliases'.

    The files' order says nothing: `lm_head.weight` sorts before the `model.embed_tokens.weight` that owns it.
    """
    own_pieces = [at for at, piece in enumerate(tensor.result) if _is_stored_as(tensor.info.name, piece.name)]
    if not own_pieces or any(piece.rows for piece in tensor.result):
        return tensor

    def first(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        return (pieces[own_pieces[0]], *pieces[: own_pieces[0]], *pieces[own_pieces[0] + 1 :])

    paired = len(tensor.base) == len(tensor.result)
    return replace(tensor, result=first(tensor.result), base=first(tensor.base) if paired else tensor.base)


def _is_stored_as(name: str, stored: str) -> bool:
    """Whether a live name is stored under this one, of which files may leave out a prefix."""
    return name == stored or name.endswith(f".{stored}")


def _row(
    decision: Decision, tensor: ObservedTensor, base: Mapping[str, TensorReading], result: Mapping[str, TensorReading]
) -> Row:
    """The row of a live tensor that is at most one tensor in each file."""
    before, after = _first(tensor.base, base), _first(tensor.result, result)
    role = _role(decision, has_base=before is not None)
    return Row(
        **_identity(decision, tensor),
        role=role,
        dtype=None if before or after else tensor.info.dtype,
        shape=None if before or after else tensor.info.shape,
        base=_reading(before),
        result=_reading(after),
        initial=_initial(tensor, after) if role == "new" else None,
        loaded=tensor.loaded,
        trained=tensor.trained,
        changed=changed(_reading(before), _reading(after)),
        slices=_slices(decision, before, after, tensor),
        intervals=tensor.intervals if role == "scheduled" else (),
    )


def _copies(
    row: Row,
    decision: Decision,
    tensor: ObservedTensor,
    base: Mapping[str, TensorReading],
    result: Mapping[str, TensorReading],
) -> Iterator[Row]:
    """One row for each further name under which the result stores a tied tensor."""
    paired = len(tensor.base) == len(tensor.result)
    for at, piece in enumerate(tensor.result[1:], start=1):
        before = _reading(_first(tensor.base[at : at + 1] if paired else (), base))
        after = _first((piece,), result)
        stored = _reading(after)
        yield row._replace(
            name=_alias(piece.name, tensor),
            aliases=(),
            alias_of=row.name,
            base=before,
            result=stored,
            initial=_initial(tensor, after) if row.role == "new" else None,
            changed=changed(before, stored),
            slices=_slices(decision, base.get(before.name) if before else None, after, tensor),
        )


def _alias(stored: str, tensor: ObservedTensor) -> str:
    """The alias under which a copy is stored, of which files may leave out a prefix."""
    return next((name for name in tensor.info.aliases if _is_stored_as(name, stored)), stored)


def _part_rows(
    decision: Decision, tensor: ObservedTensor, base: Mapping[str, TensorReading], result: Mapping[str, TensorReading]
) -> Iterator[Row]:
    """One row for each stored tensor that holds part of a live tensor."""
    readings = {rows: (loaded, trained) for rows, loaded, trained in tensor.slices}
    everything = (0, math.prod(tensor.info.shape[:-1] or tensor.info.shape))
    stored = {piece.rows or everything for piece in (*tensor.base, *tensor.result)}
    for rows in sorted(stored):
        before = _first([piece for piece in tensor.base if piece.rows == rows], base)
        after = _first([piece for piece in tensor.result if piece.rows == rows], result)
        loaded, trained = readings.get(rows, (None, None))
        yield Row(
            **_identity(decision, tensor),
            role=_role(decision, has_base=before is not None),
            dtype=tensor.info.dtype,
            shape=tensor.info.shape,
            part=rows,
            base=_reading(before),
            result=_reading(after),
            loaded=loaded,
            trained=trained,
            changed=changed(_reading(before), _reading(after)),
        )


def _identity(decision: Decision, tensor: ObservedTensor) -> JsonDict:
    return {
        "name": tensor.info.name,
        "kind": tensor.info.kind,
        "mechanism": decision.mechanism,
        "rule": decision.rule,
        "aliases": tensor.info.aliases,
        "module_types": tensor.info.module_types,
        "persistent": tensor.info.persistent,
    }


def _role(decision: Decision, *, has_base: bool) -> str:
    if not decision.persistent:
        return "buffer"
    if not has_base:
        return "new"
    if decision.action == "freeze":
        return "scheduled" if decision.scheduled else "frozen"
    if decision.action == "split":
        return "split"
    return "buffer" if decision.kind == "buffer" else "trainable"


def _slices(
    decision: Decision, before: TensorReading | None, after: TensorReading | None, tensor: ObservedTensor
) -> tuple[RowSlice, ...]:
    """Slices of a row. Rows that the base does not have get the trainer's initial reading in place of the base's."""
    ranges = [(rows, "freeze") for rows in decision.frozen_rows] + [(rows, "train") for rows in decision.trainable_rows]
    base_rows = tensor.base_rows
    if decision.action != "split":
        ranges = [((0, base_rows), "train"), ((base_rows, tensor.info.shape[0]), "train")] if base_rows else []
    loaded = {rows: digest for rows, digest, _ in tensor.slices}
    return tuple(
        RowSlice(
            rows,
            action,
            _rows_of(before, rows),
            _rows_of(after, rows),
            initial=loaded.get(rows) if base_rows is not None and rows[1] > base_rows else None,
        )
        for rows, action in sorted(ranges)
    )


def _rows_of(reading: TensorReading | None, rows: tuple[int, int]) -> str | None:
    slices = reading.slices if reading else ()
    return next((each.sha256 for each in slices if (each.start, each.stop) == rows), None)


def _initial(tensor: ObservedTensor, after: TensorReading | None) -> Reading | None:
    """The trainer's reading of a new tensor before the first step, under its name in the result."""
    if after is None or tensor.loaded is None:
        return None
    return Reading(after.name, tensor.info.dtype, tensor.info.shape, tensor.info.nbytes, tensor.loaded)


def _first(pieces: Iterable[Piece], readings: Mapping[str, TensorReading]) -> TensorReading | None:
    return next((readings[piece.name] for piece in pieces if piece.name in readings), None)


def _reading(tensor: TensorReading | None) -> Reading | None:
    if tensor is None:
        return None
    return Reading(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, tensor.sha256)
