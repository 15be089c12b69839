"""Checks that no two stored tensors compete for one place in the loaded model, so that proved bytes are loaded bytes.

Loading renames tensors, adds or removes the base model's prefix, joins parts and ties weights. Where two stored tensors
come to one name that way, the loader takes one of them, and a signer could have proved the other one.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import cycle
from typing import NamedTuple

from app.evidence.format.statement import Reading, Row
from app.evidence.verifier.check_loading import CONFIG, parsed
from app.evidence.verifier.check_names import live
from app.evidence.verifier.context import Check, CheckContext, Holdings, Problem
from app.evidence.verifier.loaders import Kind, Table, is_known, kind_of, legacy

_CLAIMED = ("frozen", "split", "scheduled")
_TORCH_KEYS = {"type", "architecture", "kwargs", "labels"}  # of a model that no library loads by itself
# What peft calls tensors of its own; anything else in an adapter's file is loaded over the model's tensor of that name.
_OF_ADAPTERS = re.compile(
    r"(^|\.)(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|ia3_l|prompt_embeddings|prompt_encoder)(\.|$)"
)
_WRAPPERS = re.compile(r"\.(default|base_layer|modules_to_save|original_module)(?=\.|$)")


class Place(NamedTuple):
    """Where loading puts a stored tensor: the name without prefix, and the number of the rule that joins it."""

    name: str
    joined_by: int | None  # None: not a part of the loaded tensor, but all of it
    part: str  # the name before parts are joined


def _one_place(context: CheckContext) -> Iterator[Problem]:
    """Rejects two stored tensors that loading brings to one name, if one of them is frozen."""
    rows, kind = _stored(context), _kind(context)
    if kind is None:
        return
    claimed = {row.result.name for row in rows if row.result and row.role in _CLAIMED}
    names = sorted({row.result.name for row in rows if row.result})
    current = {kind.stem(name) for row in live(rows) for name in (row.name, *row.aliases)}
    reported: set[tuple[str, str]] = set()
    for renaming in _renamings(kind, names):
        for first, second in _collisions(names, renaming, kind, current):
            if not {first, second} & claimed or (first, second) in reported:
                continue
            reported.add((first, second))
            proved, other = (first, second) if first in claimed else (second, first)
            reason = (
                f"transformers loads {other!r} and this tensor under one name (it renames old names, and adds or "
                f"removes the base model's prefix), so it takes one of the two; remove {other!r}"
            )
            yield Problem("one_place", reason, proved)


class Renaming(NamedTuple):
    """A table, and the names that it may rename. The others are where they are without it."""

    table: Table
    names: list[str]


def _renamings(kind: Kind, names: list[str]) -> Iterator[Renaming]:
    """The tables that rename any of the names, and the empty one. Names that differ in digits alone are tried once."""
    shapes: dict[str, list[str]] = defaultdict(list)
    for name in names:
        shapes[re.sub(r"\d+", "0", name)].append(name)
    tried = {shape: {same[0], same[-1]} for shape, same in shapes.items()}
    for table in kind.tables_for([name for some in tried.values() for name in some]):
        if not table:
            yield Renaming((), names)
            continue
        patterns = [rule.pattern for rule in table]
        if any(re.search(r"(?<!\\)\d", pattern.pattern.replace("(?P<g", "")) for pattern in patterns):
            found = [name for name in names if any(pattern.search(name) for pattern in patterns)]
        else:
            hit = [s for s, some in tried.items() if any(p.search(name) for name in some for p in patterns)]
            found = [name for shape in hit for name in shapes[shape]]
        if found:
            yield Renaming(table, found)


def _collisions(names: list[str], renaming: Renaming, kind: Kind, current: set[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names with one place. Parts that one rule joins share a place and are no collision."""
    taken: dict[str, list[tuple[str, Place]]] = defaultdict(list)
    parts: dict[str, str] = {}
    renamed = set(renaming.names)
    if renaming.table:
        for name in names:
            if name not in renamed:
                place = Place(_plain(kind, name), None, "")
                taken[place.name].append((name, place))
                parts[place.name] = name

    for name in renaming.names:
        for place in _places(name, renaming.table, kind, current):
            if (first := parts.setdefault(place.part, name)) != name:
                yield first, name
            for other, there in taken[place.name]:
                if other != name and (place.joined_by is None or place.joined_by != there.joined_by):
                    yield other, name
            taken[place.name].append((name, place))


@lru_cache(maxsize=1 << 17)  # the same for each table
def _plain(kind: Kind, name: str) -> str:
    return kind.stem(legacy(name))


def _places(name: str, table: Table, kind: Kind, current: set[str]) -> Iterator[Place]:
    """Where loading may put a tensor: under the renamed name, or under its own if that is a name of the live model."""
    renamed = legacy(name)
    joined: tuple[int, tuple[str, ...]] | None = None
    for rule in table:
        found = rule.renamed(renamed)
        if found and not rule.joins:
            renamed = found[0]
    for number, rule in enumerate(table):
        if rule.joins and (found := rule.renamed(renamed)):
            joined = number, found
            break

    part = _stem(kind, renamed)
    if joined is not None:
        for target in joined[1]:
            yield Place(kind.stem(target), joined[0], part)
    else:
        yield Place(part, None, part)
    own = kind.stem(name)
    if own != part and own in current and (joined is not None or part not in current):
        yield Place(own, None, own)


@lru_cache(maxsize=1 << 17)
def _stem(kind: Kind, name: str) -> str:
    return kind.stem(name)


def _known_prefix(context: CheckContext) -> Iterator[Problem]:
    """Rejects frozen tensors whose names in the result have a prefix that the model's class does not know."""
    config = parsed(_result(context), CONFIG)
    if context.predicate.result_kind == "adapter" or not is_known(config):
        return
    kind = kind_of(config)
    for row in context.predicate.rows:
        if row.role not in _CLAIMED or row.base is None or row.result is None:
            continue
        longer, shorter = sorted((row.base.name, row.result.name), key=len, reverse=True)
        prefix = longer.removesuffix(f".{shorter}")
        if prefix != longer and prefix not in kind.prefixes:
            reason = f"transformers knows no prefix {prefix!r} for this model_type, so it would not load the tensor"
            yield Problem("known_prefix", f"{reason}; store it under the base's name", row.result.name)


def _all_parts(context: CheckContext) -> Iterator[Problem]:
    """Rejects frozen parts of a joined tensor beside parts that are new or were dropped: their order would change."""
    rows, kind = _stored(context), _kind(context)
    if kind is None:
        return
    reported: set[str] = set()
    names = list(dict.fromkeys(reading.name for row in rows if (reading := row.result or row.base)))
    for table, renamed in _renamings(kind, names):
        groups: dict[str, list[Row]] = defaultdict(list)
        changed = set(renamed) if any(rule.joins for rule in table) else set()
        for row in rows:
            reading = row.result or row.base
            if reading is not None and reading.name in changed:
                for place in _places(reading.name, table, kind, set()):
                    if place.joined_by is not None:
                        groups[place.name].append(row)
        for name, members in groups.items():
            odd = [row for row in members if row.base is None or row.result is None]
            if odd and any(row.role in _CLAIMED and row not in odd for row in members):
                stored = odd[0].result or odd[0].base
                assert stored is not None  # only stored tensors are members
                if stored.name in reported:
                    continue
                reported.add(stored.name)
                reason = (
                    f"a part of {name!r} that is not in base and result alike; transformers joins the parts by their "
                    "numbers, so the frozen ones come to other rows; keep all parts of the base"
                )
                yield Problem("all_parts", reason, stored.name)


def _ties(context: CheckContext) -> Iterator[Problem]:
    """Rejects tied weights that are stored with different bytes, and those of which only the copy is stored."""
    config = parsed(_result(context), CONFIG)
    if context.predicate.result_kind == "adapter" or not is_known(config):
        return
    kind = kind_of(config)
    tied = config.get("tie_word_embeddings")
    if not (kind.tied if tied is None else tied):
        return
    rows = {kind.stem(row.result.name): row for row in _stored(context) if row.result}
    for target, source in _tied_pairs(kind, rows):
        copy, original = rows.get(target), rows.get(source)
        if copy is None or original is None or not {copy.role, original.role} & set(_CLAIMED):
            continue
        first, second = _readings(copy, original)
        if not first.same(second):
            reason = (
                f"config.json ties it to {second.name!r}, which is stored with other bytes; transformers 4 loads those "
                "into both; set tie_word_embeddings to false, or store one of them"
            )
            yield Problem("ties", reason, first.name)


def _readings(first: Row, second: Row) -> tuple[Reading, Reading]:
    assert first.result is not None and second.result is not None
    return first.result, second.result


def _tied_pairs(kind: Kind, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that are tied, target first. The patterns are names, modules or regular expressions."""
    names = sorted(names)
    for target, source in kind.ties:
        goals, sources = (_matching(kind, pattern, names) for pattern in (target, source))
        if goals and sources:
            yield from zip(goals, cycle(sources))


def _matching(kind: Kind, pattern: str, names: list[str]) -> list[str]:
    plain = kind.stem(pattern.removeprefix("^"))
    return [name for name in names if re.match(plain, name)]


def _only_own(context: CheckContext) -> Iterator[Problem]:
    """Rejects tensors of an adapter that peft loads over a tensor of the base model."""
    if context.predicate.result_kind != "adapter":
        return
    kind = kind_of({})
    bases = {kind.stem(legacy(row.base.name)) for row in context.predicate.rows if row.base}
    saved = _saved_modules(_result(context))
    for row in context.predicate.rows:
        if row.result is None or _OF_ADAPTERS.search(row.result.name):
            continue
        plain = _WRAPPERS.sub("", re.sub(r"^(base_model\.)?(model\.)?", "", row.result.name, count=1))
        inside = _WRAPPERS.sub("", row.result.name.removeprefix("base_model.").removeprefix("model."))
        if any(inside == module or inside.startswith(f"{module}.") for module in saved):
            continue
        if {kind.stem(legacy(plain)), kind.stem(legacy(inside))} & bases:
            reason = (
                "peft loads it over the base's tensor of this name; an adapter holds its own tensors alone; remove it"
            )
            yield Problem("only_own", reason, row.result.name)


def _saved_modules(held: Holdings) -> tuple[str, ...]:
    """Modules that peft keeps a copy of for the adapter: it loads their tensors into the copy."""
    config = parsed(held, "adapter_config.json")
    modules = config.get("modules_to_save") if isinstance(config, dict) else None
    return tuple(name for name in modules or () if isinstance(name, str))


def _stored(context: CheckContext) -> tuple[Row, ...]:
    return context.predicate.rows


def _kind(context: CheckContext) -> Kind | None:
    """How the result is loaded; None for an adapter, and for a model that only its own architecture can load."""
    config = parsed(_result(context), CONFIG)
    if context.predicate.result_kind == "adapter":
        return None
    if isinstance(config, dict) and config.get("type") == "torch" and set(config) <= _TORCH_KEYS:
        return None
    return kind_of(config)


def _result(context: CheckContext) -> Holdings:
    if context.result is None:
        raise AssertionError("a check of the result ran before it was read")
    return context.result


CHECKS: dict[str, Check] = {
    "one_place": _one_place,
    "known_prefix": _known_prefix,
    "all_parts": _all_parts,
    "ties": _ties,
    "only_own": _only_own,
}
