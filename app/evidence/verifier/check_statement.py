"""Checks of a statement's rows and totals against each other. No files are needed.

Each check is one entry of `CHECKS`; the tamper suite removes them one by one to show that each is needed.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from app.evidence.format import tree
from app.evidence.format.statement import (
    Reading,
    Row,
    Total,
    base_readings,
    changed,
    frozen_readings,
    result_readings,
    row_order,
    total,
)
from app.evidence.format.tensorfile import TensorFileError, byte_count
from app.evidence.verifier.check_names import live, owners
from app.evidence.verifier.context import Check, CheckContext, Problem


def _scheme(context: CheckContext) -> Iterator[Problem]:
    """Rejects roots that were built by another scheme than the one that this verifier recomputes."""
    if dict(context.statement.scheme) != tree.SCHEME:
        yield Problem("scheme", f"unknown scheme of roots: {dict(context.statement.scheme)}")


def _rows_in_order(context: CheckContext) -> Iterator[Problem]:
    """Rejects rows that are not sorted by name and part, and rows that appear twice."""
    for first, second in pairwise(context.predicate.rows):
        if _order(first) >= _order(second):
            yield Problem("rows_in_order", "its row is out of order or appears twice", second.name)


def _order(row: Row) -> tuple[bytes, tuple[int, int], bool]:
    """Sort key of a row. A base tensor that was left out may have the name of a new tensor; its row comes second."""
    return *row_order(row), row.role == "dropped"


def _parts(context: CheckContext) -> Iterator[Problem]:
    """Rejects rows of one live tensor that disagree about it, overlap, or do not say which part they are."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in live(context.predicate.rows):
        groups[row.name].append(row)
    for name, rows in groups.items():
        if len(rows) == 1 and rows[0].part is None:
            continue
        if any(row.part is None or not row.shape for row in rows):
            yield Problem("parts", "some of its rows have no part", name)
        elif len({(row.kind, row.rule, row.aliases, row.module_types, row.shape, row.persistent) for row in rows}) > 1:
            yield Problem("parts", "its parts describe different tensors", name)
        elif any(not _inside(row) for row in rows) or any(_overlap(a, b) for a, b in pairwise(rows)):
            yield Problem("parts", "its parts overlap, are empty or exceed its shape", name)
        elif any(row.role == "split" for row in rows):
            yield Problem("parts", "partly frozen and stored in parts, so its frozen rows are not known", name)


def _inside(row: Row) -> bool:
    """The part is a non-empty range of the tensor's rows, which are counted over all dimensions but the last."""
    if row.part is None or not row.shape:
        return False
    return row.part[0] < row.part[1] <= math.prod(row.shape[:-1] or row.shape)


def _overlap(first: Row, second: Row) -> bool:
    return first.part is not None and second.part is not None and second.part[0] < first.part[1]


def _aliases(context: CheckContext) -> Iterator[Problem]:
    """Rejects stored copies of a tied tensor that differ in bytes or in decision: a loader may take any of them."""
    rows = context.predicate.rows
    known = {row.name: row for row in owners(rows) if row.part is None}
    for row in rows:
        if row.alias_of is None:
            continue
        owner = known.get(row.alias_of)
        if owner is None or row.name not in owner.aliases:
            reason = f"listed as a copy of {row.alias_of!r}, whose row does not list it as an alias"
            yield Problem("aliases", reason, row.name)
        elif _decided(row) != _decided(owner):
            yield Problem("aliases", f"its row does not agree with that of {owner.name!r}", row.name)
        elif row.result is None or owner.result is None or not row.result.same(owner.result):
            digests = [each.sha256 if each else None for each in (owner.result, row.result)]
            yield Problem("aliases", f"stored with other bytes than {owner.name!r}", row.name, *digests)


def _decided(row: Row) -> tuple[object, ...]:
    slices = [(part.rows, part.action, part.result) for part in row.slices]
    return row.kind, row.role, row.rule, row.mechanism, row.module_types, row.persistent, slices, row.intervals


def _sizes(context: CheckContext) -> Iterator[Problem]:
    """Rejects a reading whose byte count does not follow from its dtype and shape."""
    for row in context.predicate.rows:
        for reading in (row.base, row.result, row.initial):
            if reading and not _size_fits(reading):
                reason = f"{reading.dtype} of shape {list(reading.shape)} does not take {reading.nbytes} bytes"
                yield Problem("sizes", reason, row.name)


def _size_fits(reading: Reading) -> bool:
    try:
        return byte_count(reading.dtype, reading.shape) == reading.nbytes
    except TensorFileError:
        return False


def _own_form(context: CheckContext) -> Iterator[Problem]:
    """Rejects a row with a live shape or dtype beside its readings, with which a signer could mislead the policy."""
    for row in context.predicate.rows:
        stored = row.base or row.result or row.initial
        if row.part is None and stored and (row.shape is not None or row.dtype is not None):
            yield Problem("own_form", "has a live shape or dtype beside those of its readings", row.name)
        if not row.persistent and (row.base or row.result):
            yield Problem("own_form", "marked as stored in no file, but it has readings from a file", row.name)


def _base_total(context: CheckContext) -> Iterator[Problem]:
    """Rejects a base root, count or size that does not follow from the rows."""
    yield from _compare_totals("base_total", "base", context.statement.base, base_readings(context.predicate.rows))


def _result_total(context: CheckContext) -> Iterator[Problem]:
    """Rejects a result root, count or size that does not follow from the rows."""
    yield from _compare_totals(
        "result_total", "result", context.statement.result, result_readings(context.predicate.rows)
    )


def _frozen_total(context: CheckContext) -> Iterator[Problem]:
    """Rejects a frozen root, count or size that does not follow from the rows."""
    yield from _compare_totals(
        "frozen_total", "frozen", context.statement.frozen, frozen_readings(context.predicate.rows)
    )


def _compare_totals(check: str, what: str, stated: Total, readings: list[Reading]) -> Iterator[Problem]:
    try:
        found = total(readings)
    except ValueError as error:
        yield Problem(check, f"{what}: {error}")
        return
    if stated.root != found.root:
        yield Problem(check, f"the {what} root of the rows is not the stated one", None, stated.root, found.root)
    if (stated.count, stated.nbytes) != (found.count, found.nbytes):
        in_statement, in_rows = (f"{one.count} tensors ({one.nbytes} bytes)" for one in (stated, found))
        reason = f"{what}: {in_statement} in the statement, {in_rows} in its rows"
        yield Problem(check, reason)


def _changed_flags(context: CheckContext) -> Iterator[Problem]:
    """Rejects a row whose `changed` flag contradicts its readings."""
    for row in context.predicate.rows:
        if row.changed != changed(row.base, row.result):
            reason = f"'changed' is {str(row.changed).lower()}, but its readings show the opposite"
            yield Problem("changed_flags", reason, row.name)


CHECKS: dict[str, Check] = {
    "scheme": _scheme,
    "rows_in_order": _rows_in_order,
    "parts": _parts,
    "aliases": _aliases,
    "sizes": _sizes,
    "own_form": _own_form,
    "base_total": _base_total,
    "result_total": _result_total,
    "frozen_total": _frozen_total,
    "changed_flags": _changed_flags,
}
