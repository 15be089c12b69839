"""Checks of a chain of statements, for a fine-tune of a fine-tune: each statement is about the base of the next one.

A tensor that was frozen in all of them has the bytes of the first base: each statement's base root has to be the
result root of the one before.
"""

from collections.abc import Iterator
from itertools import pairwise

from app.evidence.format.digest import sha256_bytes
from app.evidence.format.statement import Row
from app.evidence.verifier.context import Check, CheckContext, Problem


def frozen_throughout(context: CheckContext) -> list[Row]:
    """Rows of the tensors that are frozen in this statement and in all earlier ones of the chain."""
    rows = list(_kept(context))
    origins = [row.base.name if row.base else None for row in rows]  # followed back, file by file
    for earlier in context.chain:
        before = {row.result.name: row.base.name for row in _kept(earlier) if row.result and row.base}
        origins = [before.get(name) if name is not None else None for name in origins]
    return [row for row, origin in zip(rows, origins, strict=True) if origin is not None]


def _kept(context: CheckContext) -> Iterator[Row]:
    return (row for row in context.predicate.rows if row.role == "frozen")


def _pinned_base(context: CheckContext) -> Iterator[Problem]:
    """Rejects a base root other than `--base-root`; in a chain that of the first base counts as well."""
    roots = [context.statement.base.root, *(earlier.statement.base.root for earlier in context.chain[-1:])]
    if context.inputs.base_root is not None and context.inputs.base_root not in roots:
        yield Problem("pinned_base", "about another base", None, context.inputs.base_root, roots[-1])


def _chain_is_named(context: CheckContext) -> Iterator[Problem]:
    """Rejects a chain in which a statement does not name the one before it by the digest of its payload."""
    for later, earlier in pairwise((context, *context.chain)):
        found = sha256_bytes(earlier.envelope.payload)
        if later.predicate.previous != found:
            reason = f"the statement about {later.predicate.job_id} names another statement before it"
            yield Problem("chain_is_named", reason, None, later.predicate.previous, found)


def _chain_is_linked(context: CheckContext) -> Iterator[Problem]:
    """Rejects a chain in which the root of a base is not the root of the result before it."""
    for later, earlier in pairwise((context, *context.chain)):
        if later.statement.base.root != earlier.statement.result.root:
            reason = f"the base of {later.predicate.job_id} is not the result of {earlier.predicate.job_id}"
            yield Problem("chain_is_linked", reason, None, earlier.statement.result.root, later.statement.base.root)


def _chain_leaves_something_frozen(context: CheckContext) -> Iterator[Problem]:
    """Rejects a chain in which no tensor was frozen every time."""
    if context.chain and not frozen_throughout(context):
        yield Problem("chain_leaves_something_frozen", "no tensor was frozen in every statement of the chain")


CHECKS: dict[str, Check] = {
    "pinned_base": _pinned_base,
    "chain_is_named": _chain_is_named,
    "chain_is_linked": _chain_is_linked,
    "chain_leaves_something_frozen": _chain_leaves_something_frozen,
}
