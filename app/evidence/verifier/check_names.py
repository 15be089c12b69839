"""Checks that the three names of a row belong together: in the live model, in the base file and in the result file.

Roots and files prove the bytes. A signer could still forge which tensor is compared with which.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from app.evidence.format.block_scaled import is_coded, plain_of
from app.evidence.format.statement import Row
from app.evidence.verifier.context import Check, CheckContext, Problem
from app.evidence.verifier.renames import Table, renamed, tables

# How transformers renames while it loads and saves, whatever the model; both sides of a comparison are brought to the
# newer name. What it does to some kinds of models alone is in `renames`.
_RENAMED = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)
# peft stores the virtual tokens of prompt tuning under a name of their own.
_VIRTUAL_TOKENS = ("prompt_encoder.embedding.weight", "prompt_embeddings")
_OWN_SEGMENTS = re.compile(r"(?<=\.lora_magnitude_vector)\.default\.weight$|\.default(?=\.|$)")  # DoRA's in full
_OF_PEFT = "base_model.model."
_ADAPTER_SEGMENTS = re.compile(r"\.(default|base_layer|modules_to_save|original_module)(?=\.|$)")


def live(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows about tensors of the trained model. The other rows are about base tensors that it does not have."""
    return (row for row in rows if row.role != "dropped")


def owners(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows about live tensors under their own names, which the policy decides. The other rows are copies of these."""
    return (row for row in live(rows) if row.alias_of is None)


def _base_names(context: CheckContext) -> Iterator[Problem]:
    """Rejects rows that pair a result tensor with another base tensor than its name says."""
    yield from _paired(context, _table(context))


def _live_names(context: CheckContext) -> Iterator[Problem]:
    """Rejects rows whose live name is not the name under which the tensor is stored."""
    yield from _named(context, _table(context))


def _table(context: CheckContext) -> Table:
    """The first table of renames under which all names belong together; the empty table if no table fits.

    One table counts for the whole model, so a signer cannot choose names for a single tensor.
    """
    rows = context.predicate.rows
    stored = {each.name for row in rows for each in (row.base, row.result) if each}
    if _fits(context, ()):
        return ()
    for table in tables():
        if any(renamed(name, table, joined=True) != name for name in stored) and _fits(context, table):
            return table
    return ()


def _fits(context: CheckContext, table: Table) -> bool:
    return not any(_paired(context, table)) and not any(_named(context, table))


def _paired(context: CheckContext, table: Table) -> Iterator[Problem]:
    """Problems of result tensors that are not paired with the base tensor of the same name, up to one common prefix.

    Otherwise a signer could swap two tensors and compare each with the other, or call a changed tensor new.
    """
    rows = context.predicate.rows
    bases = {row.base.name for row in rows if row.base}
    newer = {_newer(name, table): name for name in sorted(bases)}
    pairs = {(row.base.name, row.result.name) for row in rows if row.base and row.result}
    prefixes = {_prefix(_newer(base, table), _newer(result, table)) for base, result in pairs} - {("", "")}
    if len(prefixes) > 1:
        yield Problem("base_names", "result names differ from base names by more than one common prefix")
        return
    for row in rows:
        if row.result is None:
            continue
        own = row.result.name
        expected = own if own in bases else _expected(_newer(own, table), newer, prefixes)
        actual = row.base.name if row.base else None
        initialised_anew = row.role == "new" and actual is None and not _freezes(context, row)
        if actual != expected and not initialised_anew:
            reason = f"compared with the base's {actual!r}, by its name it belongs to {expected!r}"
            yield Problem("base_names", reason, row.name)


def _prefix(base: str, result: str) -> tuple[str, str]:
    """The prefix to remove from a result's name and the one to add to get the base's name; whole names if unrelated."""
    if base == result:
        return "", ""
    if result.endswith("." + base):
        return result[: -len(base)], ""
    if base.endswith("." + result):
        return "", base[: -len(result)]
    return result, base


def _expected(result: str, bases: dict[str, str], prefixes: set[tuple[str, str]]) -> str | None:
    if result in bases:
        return bases[result]
    for off, on in prefixes:
        if result.startswith(off) and (off.endswith(".") or on.endswith(".")):
            return bases.get(on + result[len(off) :])
    return None


def _freezes(context: CheckContext, row: Row) -> bool:
    if context.plan is None or row.alias_of is not None:
        return False
    return context.plan.decision(row.name).action != "train"


def _named(context: CheckContext, table: Table) -> Iterator[Problem]:
    """Problems of rows whose live name, which the policy uses, is not the stored name up to one common prefix."""
    adapter = context.predicate.result_kind == "adapter"
    found: dict[str, str] = {}  # prefix -> an example
    for row in live(context.predicate.rows):
        stored = row.result or row.base
        if stored is None:
            continue
        name = plain_of(stored.name) if is_coded(stored.name, stored.dtype) else stored.name
        prefix = _live_prefix(row, name, table, adapter=adapter)
        if prefix is None:
            yield Problem("live_names", f"stored as {stored.name!r}, which is not its live name", row.name)
        elif not (adapter and row.base is None):
            found.setdefault(prefix, row.name)
        elif prefix:  # an adapter's own tensors are stored under their full names
            yield Problem("live_names", f"stored as {stored.name!r}, without {prefix!r}", row.name)
    if len(found) > 1:
        examples = " and ".join(sorted(found.values()))
        yield Problem("live_names", f"stored under names that differ by more than one common prefix: {examples}")


def _live_prefix(row: Row, stored: str, table: Table, *, adapter: bool) -> str | None:
    stored = _newer(stored, table, joined=True)
    prefixes = []
    names = (row.name, *row.aliases)
    if adapter:  # an adapter beside fused experts has itself below a `base_layer`, in its file as well
        names = (*(_ADAPTER_SEGMENTS.sub("", name) for name in names), *(_OWN_SEGMENTS.sub("", name) for name in names))
    for name in names:
        # A rename may apply to the names that it makes, too: then the live name is right as it is.
        for plain in dict.fromkeys(_newer(name, renames, joined=True) for renames in (table, ())):
            if plain == stored or (adapter and (plain, stored) == _VIRTUAL_TOKENS):
                return ""
            if plain.endswith("." + stored):
                prefixes.append(plain[: -len(stored)])
            inner = plain.removeprefix(_OF_PEFT)
            if adapter and inner != plain and stored.endswith("." + inner):  # of a language model inside the base
                prefixes.append(_OF_PEFT + stored[: -len(inner)])
    return prefixes[0] if prefixes else None


@lru_cache(maxsize=1 << 16)  # each name is looked up a few times
def _newer(name: str, table: Table, *, joined: bool = False) -> str:
    name = renamed(name, table, joined=joined)
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


CHECKS: dict[str, Check] = {"base_names": _base_names, "live_names": _live_names}
