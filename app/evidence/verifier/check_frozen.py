"""Checks of the claims about frozen tensors: whole, in part, and for some steps. No files are needed."""

from collections.abc import Iterator

from app.evidence.format.block_scaled import is_coded, not_frozen
from app.evidence.format.quantised import quantised_weights
from app.evidence.format.statement import FrozenInterval, Reading, Row
from app.evidence.verifier.check_names import owners
from app.evidence.verifier.context import Check, CheckContext, Problem
from app.freeze.policy import Intervals

_FLOATS = ("F64", "F32", "F16", "BF16")


def _adapter_or_model(context: CheckContext) -> Iterator[Problem]:
    """Rejects an adapter that holds a tensor of the base, and a model that holds files of an adapter."""
    predicate = context.predicate
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
    """Rejects a statement that freezes nothing."""
    if not any(row.role in ("frozen", "split", "scheduled") for row in context.predicate.rows):
        yield Problem("something_frozen", "nothing is frozen, so there is nothing to prove")


def _frozen_is_identical(context: CheckContext) -> Iterator[Problem]:
    """Rejects a frozen tensor that is missing from the result or differs from the base in bytes, dtype or shape."""
    adapter = context.predicate.result_kind == "adapter"
    for row in context.predicate.rows:
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
    """Rejects a frozen tensor of which the trainer read other bytes from memory, after loading or at the end."""
    for row in context.predicate.rows:
        if row.role != "frozen" or row.base is None:
            continue
        expected = row.made or row.base.sha256
        for when, digest in (("after loading", row.loaded), ("at the end of training", row.trained)):
            if digest is not None and digest != expected:
                yield Problem("frozen_while_live", f"had other bytes {when}", row.name, expected, digest)


def _quantised_below_adapter(context: CheckContext) -> Iterator[Problem]:
    """Rejects a digest of a made weight where it could stand for a tensor that is stored, or trained, or no codes."""
    adapter = context.predicate.result_kind == "adapter"
    frozen = {row.base.name for row in context.predicate.rows if row.base and row.role == "frozen"}
    stored = {row.base.name: row.base.dtype for row in context.predicate.rows if row.base}
    codes = quantised_weights(stored)
    for row in context.predicate.rows:
        if row.made is None:
            continue
        what = "decoded" if row.decoded else "quantised"
        if not adapter or row.role != "frozen" or row.base is None or row.result is not None:
            reason = f"has the digest of a {what} weight, which only a frozen weight below an adapter has"
            yield Problem("quantised_below_adapter", reason, row.name)
        elif row.quantised if is_coded(row.base.name, row.base.dtype) else row.decoded:
            reason = f"is stored as {row.base.dtype}: codes are decoded, and plain weights are quantised"
            yield Problem("quantised_below_adapter", reason, row.name)
        elif row.quantised and codes:
            reason = f"was quantised for training, and the base has codes already, such as {min(codes)!r}"
            yield Problem("quantised_below_adapter", reason, row.name)
        elif row.quantised and row.base.dtype not in _FLOATS:
            reason = f"is stored as {row.base.dtype}, and floats alone are quantised"
            yield Problem("quantised_below_adapter", reason, row.name)
        elif row.decoded and (moving := not_frozen(row.base.name, row.base.dtype, stored, frozen)) is not None:
            yield Problem("quantised_below_adapter", f"was decoded, and {moving!r} beside it is not frozen", row.name)
        elif row.loaded is None or row.trained is None:
            reason = f"was {what} for training, and not read after loading and at the end"
            yield Problem("quantised_below_adapter", reason, row.name)


def _trained_is_stored(context: CheckContext) -> Iterator[Problem]:
    """Rejects a trained tensor whose stored bytes are not those that the trainer read at the end of training."""
    for row in context.predicate.rows:
        if (
            row.role == "frozen" or row.result is None or row.trained is None
        ):  # what is frozen is compared with the base
            continue
        if row.trained != row.result.sha256:
            reason = "stored with other bytes than it had at the end of training"
            yield Problem("trained_is_stored", reason, row.name, row.trained, row.result.sha256)


def _no_violations(context: CheckContext) -> Iterator[Problem]:
    """Rejects a statement that itself records a frozen tensor as changed."""
    for violation in context.predicate.violations:
        yield Problem("no_violations", "the statement records that it changed", violation)


def _slices(context: CheckContext) -> Iterator[Problem]:
    """Rejects a partly frozen tensor whose row ranges are not the policy's, or whose frozen rows changed."""
    if context.plan is None:
        return
    for row in owners(context.predicate.rows):
        if row.role != "split":
            continue
        decision = context.plan.decision(row.name)
        ranges = [(rows, "freeze") for rows in decision.frozen_rows]
        ranges += [(rows, "train") for rows in decision.trainable_rows]
        if sorted((part.rows, part.action) for part in row.slices) != sorted(ranges):
            yield Problem("slices", "its row ranges are not those of the policy", row.name)
        for part in row.slices:
            if part.action == "freeze" and (part.base is None or part.base != part.result):
                reason = f"rows {part.rows[0]} to {part.rows[1]} are frozen, but not identical"
                yield Problem("slices", reason, row.name, part.base, part.result)
        if row.base and row.result and not _same_or_grown(row.base, row.result):
            yield Problem("slices", f"partly frozen, but {row.base.difference(row.result)}", row.name)


def _same_or_grown(base: Reading, result: Reading) -> bool:
    """Same dtype and row shape, and at least as many rows: new tokens add rows."""
    if (base.dtype, base.shape[1:]) != (result.dtype, result.shape[1:]) or not base.shape or not result.shape:
        return (base.dtype, base.shape) == (result.dtype, result.shape)
    return base.shape[0] <= result.shape[0]


def _intervals(context: CheckContext) -> Iterator[Problem]:
    """Rejects a schedule that is not the policy's, a change inside it, or ends that contradict base and result.

    Only the two ends can be compared with files; the digests in between are the signer's word.
    """
    for row in owners(context.predicate.rows) if context.plan is not None else ():
        if row.role != "scheduled":
            continue
        spans, steps = row.intervals, context.predicate.observed.get("last_step")
        if tuple((span.from_step, span.to_step) for span in spans) != _planned(context, row, steps):
            yield Problem("intervals", "its intervals are not those of the policy", row.name)
        for span in spans:
            if span.before != span.after:
                reason = f"changed while frozen, from step {span.from_step} to {span.to_step or 'the end'}"
                yield Problem("intervals", reason, row.name, span.before, span.after)
        if spans and spans[0].from_step == 0 and row.base and spans[0].before != row.base.sha256:
            yield Problem("intervals", "does not start as the base", row.name, row.base.sha256, spans[0].before)
        if spans and _to_the_end(spans[-1], steps) and row.result and spans[-1].after != row.result.sha256:
            yield Problem("intervals", "does not end as the result", row.name, spans[-1].after, row.result.sha256)


def _planned(context: CheckContext, row: Row, steps: object) -> Intervals:
    """The policy's intervals. A run may end before its last freeze begins, but not before its first."""
    assert context.plan is not None  # only called where there is one
    planned = context.plan.decision(row.name).intervals
    if isinstance(steps, int):
        planned = planned[:1] + tuple(bounds for bounds in planned[1:] if bounds[0] < steps)
    return planned


def _intervals_belong(context: CheckContext) -> Iterator[Problem]:
    """Rejects intervals of a tensor whose role has none."""
    for row in context.predicate.rows:
        if row.role != "scheduled" and row.intervals and row.alias_of is None:
            reason = f"has intervals, which a tensor with role '{row.role}' cannot have"
            yield Problem("intervals_belong", reason, row.name)


def _to_the_end(span: FrozenInterval, steps: object) -> bool:
    """The freeze covers the last step of the run, so the saved bytes are those of the freeze."""
    return span.to_step is None or (isinstance(steps, int) and span.from_step < steps <= span.to_step)


CHECKS: dict[str, Check] = {
    "adapter_or_model": _adapter_or_model,
    "something_frozen": _something_frozen,
    "frozen_is_identical": _frozen_is_identical,
    "frozen_while_live": _frozen_while_live,
    "quantised_below_adapter": _quantised_below_adapter,
    "trained_is_stored": _trained_is_stored,
    "no_violations": _no_violations,
    "slices": _slices,
    "intervals": _intervals,
    "intervals_belong": _intervals_belong,
}
