"""Checks that a row's names belong together: the live tensor's, the base's and the result's.

Bytes are bound by roots and files; what a signer could still forge is which tensor is compared with which.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from app.evidence.case import Case, Check, Problem
from app.evidence.statement import Row

# How transformers renames while it loads and saves; both sides of a comparison are brought to the newer name.
_RENAMED = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
    # Vision transformers; other encoders keep these names, and then have them on both sides.
    (re.compile(r"(?<![^.])encoder\.layer\.(\d+)\."), r"layers.\1."),
    (re.compile(r"\.attention\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.attention\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
)
# Stored tensors of which it makes one live tensor.
_FUSED = (
    (re.compile(r"\.experts\.\d+\.(w1|w3|gate_proj|up_proj)\.weight$"), ".experts.gate_up_proj"),
    (re.compile(r"\.experts\.\d+\.(w2|down_proj)\.weight$"), ".experts.down_proj"),
)
# peft stores the virtual tokens of prompt tuning under a name of their own.
_VIRTUAL_TOKENS = ("prompt_encoder.embedding.weight", "prompt_embeddings")
_ADAPTER_SEGMENTS = re.compile(r"\.(default|base_layer|modules_to_save|original_module)(?=\.|$)")


def live(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows about tensors of the trained model; the others are about base tensors that it does not have."""
    return (row for row in rows if row.role != "dropped")


def owners(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows about live tensors under their own names: what the policy decides. The others are copies of these."""
    return (row for row in live(rows) if row.alias_of is None)


def _base_names(case: Case) -> Iterator[Problem]:
    """A result's tensor is compared with the base's of that name, or of that name without the one common prefix.

    Otherwise a signer could swap two tensors and pair each with the other, or call a changed one new.
    """
    rows = case.said.claim.rows
    bases = {row.base.name for row in rows if row.base}
    newer = {_newer(name): name for name in sorted(bases)}
    renamed = {(row.base.name, row.result.name) for row in rows if row.base and row.result}
    prefixes = {_prefix(_newer(base), _newer(result)) for base, result in renamed} - {("", "")}
    if len(prefixes) > 1:
        yield Problem("base_names", "result names differ from base names by more than one common prefix")
        return
    for row in rows:
        if row.result is None:
            continue
        expected = row.result.name if row.result.name in bases else _expected(_newer(row.result.name), newer, prefixes)
        actual = row.base.name if row.base else None
        initialised_anew = row.role == "new" and actual is None and not _freezes(case, row)
        if actual != expected and not initialised_anew:
            reason = f"compared with the base's {actual!r}, by its name it is {expected!r}"
            yield Problem("base_names", reason, row.name)


def _prefix(base: str, result: str) -> tuple[str, str]:
    """What to take off a result's name and what to put before it to get the base's name; all of it when unrelated."""
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


def _freezes(case: Case, row: Row) -> bool:
    if case.plan is None or row.alias_of is not None:
        return False
    return case.plan.decision(row.name).action != "train"


def _live_names(case: Case) -> Iterator[Problem]:
    """The policy speaks of live names, files of stored ones: they are the same, up to one prefix for all of them."""
    adapter = case.said.claim.result_kind == "adapter"
    found: dict[str, str] = {}  # prefix -> an example
    for row in live(case.said.claim.rows):
        stored = row.result or row.base
        if stored is None:
            continue
        prefix = _live_prefix(row, stored.name, adapter=adapter)
        if prefix is None:
            yield Problem("live_names", f"stored as {stored.name!r}, which is not its name", row.name)
        elif not (adapter and row.base is None):
            found.setdefault(prefix, row.name)
        elif prefix:  # an adapter's own tensors are stored under their full names
            yield Problem("live_names", f"stored as {stored.name!r}, without {prefix!r}", row.name)
    if len(found) > 1:
        examples = " and ".join(sorted(found.values()))
        yield Problem("live_names", f"stored under names that differ by more than one common prefix: {examples}")


def _live_prefix(row: Row, stored: str, *, adapter: bool) -> str | None:
    stored = _fused(stored)
    prefixes = []
    for name in (row.name, *row.aliases):
        plain = _fused(_ADAPTER_SEGMENTS.sub("", name) if adapter else name)
        if plain == stored or (adapter and (plain, stored) == _VIRTUAL_TOKENS):
            return ""
        if plain.endswith("." + stored):
            prefixes.append(plain[: -len(stored)])
    return prefixes[0] if prefixes else None


@lru_cache(maxsize=1 << 16)  # asked for each name a few times
def _newer(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _fused(name: str) -> str:
    name = _newer(name)
    for pattern, replacement in _FUSED:
        name = pattern.sub(replacement, name)
    return name


CHECKS: dict[str, Check] = {"base_names": _base_names, "live_names": _live_names}
