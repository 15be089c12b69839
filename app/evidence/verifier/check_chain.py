"""Fine-tunes of fine-tunes: statements that lead from a result back to the first base, each about the base of the next.

What was frozen in all of them is the first base's, bit for bit, whoever signed what in between: the roots bind it.
"""

from collections.abc import Iterator
from itertools import pairwise

from app.evidence.format.digest import sha256_bytes
from app.evidence.format.statement import Row
from app.evidence.verifier.context import Check, CheckContext, Problem


def frozen_throughout(context: CheckContext) -> list[Row]:
    """Rows of tensors that the statement, and all before it, claim as frozen."""
    rows = list(_kept(context))
    origins = [row.base.name if row.base else None for row in rows]  # followed back, file by file
    for earlier in context.chain:
        before = {row.result.name: row.base.name for row in _kept(earlier) if row.result and row.base}
        origins = [before.get(name) if name is not None else None for name in origins]
    return [row for row, origin in zip(rows, origins, strict=True) if origin is not None]


def _kept(context: CheckContext) -> Iterator[Row]:
    return (row for row in context.statement.predicate.rows if row.role == "frozen")


def _pinned_base(context: CheckContext) -> Iterator[Problem]:
    """The pinned root is the base's own, or that of the first base in a chain of statements."""
    roots = [context.statement.base.root, *(earlier.statement.base.root for earlier in context.chain[-1:])]
    if context.inputs.base_root is not None and context.inputs.base_root not in roots:
        yield Problem("pinned_base", "about another base", None, context.inputs.base_root, roots[-1])


def _chain_is_named(context: CheckContext) -> Iterator[Problem]:
    """Each statement names the one about its base by the digest of its payload."""
    for later, earlier in pairwise((context, *context.chain)):
        found = sha256_bytes(earlier.envelope.payload)
        if later.statement.predicate.previous != found:
            reason = f"the statement about {later.predicate.job_id} names another one before it"
            yield Problem("chain_is_named", reason, None, later.statement.predicate.previous, found)


def _chain_is_linked(context: CheckContext) -> Iterator[Problem]:
    """Each base is the result of the statement before: the roots, which bind all tensors, are the same."""
    for later, earlier in pairwise((context, *context.chain)):
        if later.statement.base.root != earlier.statement.result.root:
            reason = f"the base of {later.predicate.job_id} is not the result of {earlier.predicate.job_id}"
            yield Problem("chain_is_linked", reason, None, earlier.statement.result.root, later.statement.base.root)


def _chain_leaves_something_frozen(context: CheckContext) -> Iterator[Problem]:
    if context.chain and not frozen_throughout(context):
        yield Problem("chain_leaves_something_frozen", "no tensor was frozen in every statement of the chain")


CHECKS: dict[str, Check] = {
    "pinned_base": _pinned_base,
    "chain_is_named": _chain_is_named,
    "chain_is_linked": _chain_is_linked,
    "chain_leaves_something_frozen": _chain_leaves_something_frozen,
}
