"""Checks of what a statement says, against itself and against its own policy. No files are needed.

Each check is one entry of `CHECKS`; the tamper suite takes them out one by one to show that none is decoration.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from app.errors import PolicyError
from app.evidence.format import tree
from app.evidence.format.statement import (
    FrozenInterval,
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
from app.evidence.verifier import check_names, check_policy
from app.evidence.verifier.check_names import live, owners
from app.evidence.verifier.check_policy import plan_of
from app.evidence.verifier.context import Check, CheckContext, Problem
from app.freeze.plan import Decision
from app.freeze.policy import Policy


def _rows_in_order(context: CheckContext) -> Iterator[Problem]:
    for first, second in pairwise(context.statement.predicate.rows):
        if _order(first) >= _order(second):
            yield Problem("rows_in_order", "row out of order, or there twice", second.name)


def _order(row: Row) -> tuple[bytes, tuple[int, int], bool]:
    """A base tensor may be left out for a new one of the same name."""
    return *row_order(row), row.role == "dropped"


def _parts(context: CheckContext) -> Iterator[Problem]:
    """Rows that make up one live tensor agree about it, and do not overlap."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in live(context.statement.predicate.rows):
        groups[row.name].append(row)
    for name, rows in groups.items():
        if len(rows) == 1 and rows[0].part is None:
            continue
        if any(row.part is None or not row.shape for row in rows):
            yield Problem("parts", "some of its rows do not say which part they are", name)
        elif len({(row.kind, row.rule, row.aliases, row.module_types, row.shape, row.persistent) for row in rows}) > 1:
            yield Problem("parts", "its parts do not agree about it", name)
        elif any(not _inside(row) for row in rows) or any(_overlap(a, b) for a, b in pairwise(rows)):
            yield Problem("parts", "its parts overlap, are empty or leave its shape", name)
        elif any(row.role == "split" for row in rows):
            yield Problem("parts", "partly frozen, yet stored in parts: whose rows are frozen cannot be told", name)


def _inside(row: Row) -> bool:
    """Rows of a part are counted with all dimensions but the last taken as one."""
    if row.part is None or not row.shape:
        return False
    return row.part[0] < row.part[1] <= math.prod(row.shape[:-1] or row.shape)


def _overlap(first: Row, second: Row) -> bool:
    return first.part is not None and second.part is not None and second.part[0] < first.part[1]


def _aliases(context: CheckContext) -> Iterator[Problem]:
    """Stored copies of a tied tensor are one tensor: a loader may take any of them."""
    rows = context.statement.predicate.rows
    known = {row.name: row for row in owners(rows) if row.part is None}
    for row in rows:
        if row.alias_of is None:
            continue
        owner = known.get(row.alias_of)
        if owner is None or row.name not in owner.aliases:
            yield Problem("aliases", f"said to be {row.alias_of!r}, which does not have it as another name", row.name)
        elif _decided(row) != _decided(owner):
            yield Problem("aliases", f"its row does not agree with that of {owner.name!r}", row.name)
        elif row.result is None or owner.result is None or not row.result.same(owner.result):
            digests = [each.sha256 if each else None for each in (owner.result, row.result)]
            yield Problem("aliases", f"stored with other bytes than {owner.name!r}", row.name, *digests)


def _decided(row: Row) -> tuple[object, ...]:
    slices = [(part.rows, part.action, part.result) for part in row.slices]
    return row.kind, row.role, row.rule, row.mechanism, row.module_types, row.persistent, slices, row.intervals


def _sizes(context: CheckContext) -> Iterator[Problem]:
    for row in context.statement.predicate.rows:
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
    """A row gives dtype and shape of the live tensor only where no reading does; else the policy could be misled."""
    for row in context.statement.predicate.rows:
        stored = row.base or row.result or row.initial
        if row.part is None and stored and (row.shape is not None or row.dtype is not None):
            yield Problem("own_form", "has a shape of its own beside those of its readings", row.name)
        if not row.persistent and (row.base or row.result):
            yield Problem("own_form", "said to be in no file, yet has readings from one", row.name)


def _base_total(context: CheckContext) -> Iterator[Problem]:
    yield from _compare_totals(
        "base_total", "base", context.statement.base, base_readings(context.statement.predicate.rows)
    )


def _result_total(context: CheckContext) -> Iterator[Problem]:
    yield from _compare_totals(
        "result_total", "result", context.statement.result, result_readings(context.statement.predicate.rows)
    )


def _frozen_total(context: CheckContext) -> Iterator[Problem]:
    yield from _compare_totals(
        "frozen_total", "frozen", context.statement.frozen, frozen_readings(context.statement.predicate.rows)
    )


def _compare_totals(check: str, what: str, stated: Total, readings: list[Reading]) -> Iterator[Problem]:
    try:
        found = total(readings)
    except ValueError as error:
        yield Problem(check, f"{what}: {error}")
        return
    if stated.root != found.root:
        yield Problem(
            check, f"the rows have another {what} root than the statement says", None, stated.root, found.root
        )
    if (stated.count, stated.nbytes) != (found.count, found.nbytes):
        in_statement, in_rows = (f"{one.count} tensors ({one.nbytes} bytes)" for one in (stated, found))
        reason = f"{what}: {in_statement} in the statement, {in_rows} in its rows"
        yield Problem(check, reason)


def _changed_flags(context: CheckContext) -> Iterator[Problem]:
    for row in context.statement.predicate.rows:
        if row.changed != changed(row.base, row.result):
            yield Problem("changed_flags", f"'changed' says {row.changed}, its readings say otherwise", row.name)


def _policy_digest(context: CheckContext) -> Iterator[Problem]:
    predicate = context.statement.predicate
    try:
        found = Policy.from_json(dict(predicate.policy)).digest()
    except PolicyError as error:
        yield Problem("policy_digest", f"not a policy: {error}")
        return
    if found != predicate.policy_digest:
        yield Problem("policy_digest", "the policy is not the one of its digest", None, predicate.policy_digest, found)


def _roles(context: CheckContext) -> Iterator[Problem]:
    """The policy is resolved again; nobody has to believe the role column."""
    if context.plan is None:
        return
    for row in context.statement.predicate.rows:
        if row.role == "dropped" and (row.base is None or row.result is not None):
            yield Problem("roles", "said to be dropped, yet not only in the base", row.name)
    for row in owners(context.statement.predicate.rows):
        allowed = _roles_of(row, context.plan.decision(row.name))
        if row.role not in allowed:
            reason = f"claimed as '{row.role}', by the policy it is {' or '.join(map(repr, allowed))}"
            yield Problem("roles", reason, row.name)


def _roles_of(row: Row, decision: Decision) -> tuple[str, ...]:
    if not row.persistent:
        return ("buffer",)
    if row.base is None:
        return ("new",)
    if decision.action == "freeze":
        return ("scheduled",) if decision.scheduled else ("frozen",)
    if decision.action == "split":
        return ("split",)
    # A tensor of the base may be initialised anew.
    return ("buffer", "new") if decision.kind == "buffer" else ("trainable", "new")


def _decisions(context: CheckContext) -> Iterator[Problem]:
    if context.plan is None:
        return
    for row in owners(context.statement.predicate.rows):
        decision = context.plan.decision(row.name)
        if (row.rule, row.mechanism) != (decision.rule, decision.mechanism):
            by_policy = f"{decision.rule} ({decision.mechanism})"
            reason = f"claimed under rule {row.rule} ({row.mechanism}), by the policy it is {by_policy}"
            yield Problem("decisions", reason, row.name)


def _policy_fits(context: CheckContext) -> Iterator[Problem]:
    if context.plan is None:
        try:
            plan_of(context.statement.predicate.rows, dict(context.statement.predicate.policy))
        except PolicyError as error:
            yield Problem("policy_fits", f"the policy does not fit the statement's tensors: {error}")


def _adapter_or_model(context: CheckContext) -> Iterator[Problem]:
    """An adapter has no tensor of the base in it, and a model nothing of an adapter: a loader would mix them."""
    predicate = context.statement.predicate
    if predicate.result_kind == "adapter":
        bases = {row.base.name for row in predicate.rows if row.base}
        for row in predicate.rows:
            if row.result and (row.base or row.result.name in bases):
                yield Problem("adapter_or_model", "a tensor of the base, in an adapter", row.name)
    for file in predicate.result_files:
        of_adapter = file.name.lower().startswith("adapter_")
        if of_adapter != (predicate.result_kind == "adapter") and (of_adapter or file.name.endswith(".safetensors")):
            reason = f"not a file of {'an adapter' if predicate.result_kind == 'adapter' else 'a model'}"
            yield Problem("adapter_or_model", reason, file.name)


def _something_frozen(context: CheckContext) -> Iterator[Problem]:
    if not any(row.role in ("frozen", "split", "scheduled") for row in context.statement.predicate.rows):
        yield Problem("something_frozen", "nothing is frozen, so there is nothing to prove")


def _frozen_is_identical(context: CheckContext) -> Iterator[Problem]:
    adapter = context.statement.predicate.result_kind == "adapter"
    for row in context.statement.predicate.rows:
        if row.role != "frozen" or row.base is None:
            continue
        if row.result is None:
            if not adapter:
                yield Problem("frozen_is_identical", "frozen, but not in the result", row.name)
        elif not row.base.same(row.result):
            yield Problem(
                "frozen_is_identical",
                f"frozen, but not identical: {row.base.difference(row.result)}",
                row.name,
                row.base.sha256,
                row.result.sha256,
            )


def _frozen_while_live(context: CheckContext) -> Iterator[Problem]:
    """What the trainer read from its memory, where it is given, has to agree as well."""
    for row in context.statement.predicate.rows:
        if row.role != "frozen" or row.base is None:
            continue
        for when, digest in (("after loading", row.loaded), ("at the end of training", row.trained)):
            if digest is not None and digest != row.base.sha256:
                yield Problem("frozen_while_live", f"other bytes {when}", row.name, row.base.sha256, digest)


def _trained_is_stored(context: CheckContext) -> Iterator[Problem]:
    """What the trainer says that a tensor held at the end, where it is given, is what the result's file holds."""
    for row in context.statement.predicate.rows:
        if (
            row.role == "frozen" or row.result is None or row.trained is None
        ):  # what is frozen is compared with the base
            continue
        if row.trained != row.result.sha256:
            reason = "other bytes stored than at the end of training"
            yield Problem("trained_is_stored", reason, row.name, row.trained, row.result.sha256)


def _no_violations(context: CheckContext) -> Iterator[Problem]:
    for violation in context.statement.predicate.violations:
        yield Problem("no_violations", "the statement itself records that it changed", violation)


def _slices(context: CheckContext) -> Iterator[Problem]:
    if context.plan is None:
        return
    for row in owners(context.statement.predicate.rows):
        if row.role != "split":
            continue
        decision = context.plan.decision(row.name)
        ranges = [(rows, "freeze") for rows in decision.frozen_rows]
        ranges += [(rows, "train") for rows in decision.trainable_rows]
        if sorted((part.rows, part.action) for part in row.slices) != sorted(ranges):
            yield Problem("slices", "its slices are not those of the policy", row.name)
        for part in row.slices:
            if part.action == "freeze" and (part.base is None or part.base != part.result):
                reason = f"rows {part.rows[0]} to {part.rows[1]} are frozen, but not identical"
                yield Problem("slices", reason, row.name, part.base, part.result)
        if row.base and row.result and not _same_or_grown(row.base, row.result):
            yield Problem("slices", f"partly frozen, but {row.base.difference(row.result)}", row.name)


def _same_or_grown(base: Reading, result: Reading) -> bool:
    """The result may have rows more than the base, for new tokens; which rows are frozen is checked by slices."""
    if (base.dtype, base.shape[1:]) != (result.dtype, result.shape[1:]) or not base.shape or not result.shape:
        return (base.dtype, base.shape) == (result.dtype, result.shape)
    return base.shape[0] <= result.shape[0]


def _intervals(context: CheckContext) -> Iterator[Problem]:
    """Only the ends can be checked against files; what lies between is the signer's word."""
    if context.plan is None:
        return
    for row in owners(context.statement.predicate.rows):
        if row.role != "scheduled":
            continue
        spans, steps = row.intervals, context.statement.predicate.observed.get("last_step")
        planned = context.plan.decision(row.name).intervals
        if isinstance(steps, int):  # a run may end before its last freeze begins, but not before its first
            planned = planned[:1] + tuple(bounds for bounds in planned[1:] if bounds[0] < steps)
        if tuple((span.from_step, span.to_step) for span in spans) != planned:
            yield Problem("intervals", "its intervals are not those of the policy", row.name)
        for span in spans:
            if span.before != span.after:
                reason = f"changed while frozen, from step {span.from_step} to {span.to_step or 'the end'}"
                yield Problem("intervals", reason, row.name, span.before, span.after)
        if spans and spans[0].from_step == 0 and row.base and spans[0].before != row.base.sha256:
            yield Problem("intervals", "did not start as the base", row.name, row.base.sha256, spans[0].before)
        if spans and _to_the_end(spans[-1], steps) and row.result and spans[-1].after != row.result.sha256:
            yield Problem("intervals", "did not end as the result", row.name, spans[-1].after, row.result.sha256)


def _to_the_end(span: FrozenInterval, steps: object) -> bool:
    """A freeze that the run's last step falls into: what it held then is what was saved."""
    return span.to_step is None or (isinstance(steps, int) and span.from_step < steps <= span.to_step)


def _scheme(context: CheckContext) -> Iterator[Problem]:
    if dict(context.statement.scheme) != tree.SCHEME:
        yield Problem("scheme", f"another way of building roots: {dict(context.statement.scheme)}")


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
    "policy_digest": _policy_digest,
    "policy_fits": _policy_fits,
    "roles": _roles,
    "decisions": _decisions,
    "adapter_or_model": _adapter_or_model,
    "something_frozen": _something_frozen,
    "frozen_is_identical": _frozen_is_identical,
    "frozen_while_live": _frozen_while_live,
    "trained_is_stored": _trained_is_stored,
    "no_violations": _no_violations,
    "slices": _slices,
    "intervals": _intervals,
    **check_policy.CHECKS,
    **check_names.CHECKS,
}
