"""Checks that no two stored tensors compete for one place in the loaded model, so that proved bytes are loaded bytes.

Loading renames tensors, adds or removes the base model's prefix, joins parts and ties weights. Where two stored tensors
come to one name that way, the loader takes one of them, and a signer could have proved the other one.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain, cycle
from typing import Any, NamedTuple

from app.evidence.format.statement import Reading, Row
from app.evidence.verifier.check_configuration import CONFIG, is_own, parsed
from app.evidence.verifier.check_names import live
from app.evidence.verifier.context import Check, CheckContext, Problem, result_of
from app.evidence.verifier.loaders import (
    Kind,
    Table,
    in_transformers_4,
    is_kind,
    is_known,
    kind_of,
    legacy,
    record,
)

CLAIMED = ("frozen", "split", "scheduled")
#: Tied to `shared.weight` in 19 kinds of encoder-decoders.
_DECODER_TABLE = "decoder.embed_tokens.weight"
_DIGITS = re.compile(r"\d+")


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
    claimed = {row.result.name for row in rows if row.result and row.role in CLAIMED}
    names = sorted({row.result.name for row in rows if row.result})
    current = {kind.stem(name) for row in live(rows) for name in (row.name, *row.aliases)}
    pairs = (pair for renaming in renamings(kind, names) for pair in collisions(names, renaming, kind, current))
    for first, second in dict.fromkeys(chain(pairs, _collisions_in_4(names, kind))):
        if not {first, second} & claimed:
            continue
        proved, other = (first, second) if first in claimed else (second, first)
        reason = (
            f"transformers loads {other!r} and this tensor under one name (it renames old names, and adds or "
            f"removes the base model's prefix), so it takes one of the two; remove {other!r}"
        )
        yield Problem("one_place", reason, proved)

    for row in rows:
        if row.role in CLAIMED and row.base and row.result and _doubled(kind, row.result.name, row.base.name):
            reason = (
                "transformers before version 5 does not find a name with the base model's prefix twice, and draws the "
                f"tensor anew; store it as {row.base.name!r}"
            )
            yield Problem("one_place", reason, row.result.name)


def _doubled(kind: Kind, name: str, base: str) -> bool:
    """Whether a result's name begins with one prefix twice, and the base's does not."""
    if not name.startswith(kind.doubled):
        return False
    return any(name.startswith(each) and not base.startswith(each) for each in kind.doubled)


def _collisions_in_4(names: list[str], kind: Kind) -> Iterator[tuple[str, str]]:
    """Pairs of names that transformers 4 takes for one: it renamed text anywhere in a name."""
    taken: dict[str, str] = {}
    for name in names:
        if (first := taken.setdefault(kind.stem(in_transformers_4(name)), name)) != name:
            yield first, name


class Renaming(NamedTuple):
    """A table, and the names that it may rename. The others are where they are without it."""

    table: Table
    names: list[str]


def renamings(kind: Kind, names: list[str], *, joining: bool = False) -> Iterator[Renaming]:
    """The tables that rename any of the names, and the empty one. Names that differ in digits alone are tried once.

    With `joining` only the tables that join parts.
    """
    shapes = _shapes(tuple(names))
    tried = {shape: {same[0], same[-1]} for shape, same in shapes.items()}
    for table in kind.tables_for([name for some in tried.values() for name in some]):
        if joining and not any(rule.joins for rule in table):
            continue
        if not table:
            yield Renaming((), names)
            continue
        alike, counting = [rule for rule in table if not rule.counts], [rule for rule in table if rule.counts]
        found = []
        for shape, some in tried.items():
            if any(rule.match(name) for name in some for rule in alike):
                found += shapes[shape]
            elif counting:
                found += [name for name in shapes[shape] if any(rule.match(name) for rule in counting)]
        if found:
            yield Renaming(table, found)


@lru_cache(maxsize=4)
def _shapes(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Names by what they are without their digits."""
    shapes: dict[str, list[str]] = defaultdict(list)
    for name in names:
        shapes[_DIGITS.sub("0", name)].append(name)
    return shapes


def _may_collide(names: list[str], renaming: Renaming, kind: Kind) -> bool:
    """False if names of two shapes never come to places of one, and no digits are lost on the way.

    A shape is a name without its digits: a model has few of them, and hundreds of names.
    """
    shapes = _shapes(tuple(names))
    if _counts(renaming.table, {name for same in shapes.values() for name in (same[0], same[-1])}):
        return True
    renamed = set(renaming.names)
    taken: dict[str, str] = {}
    for shape, same in shapes.items():
        for name in {same[0], same[-1]}:
            for place in _places(name, renaming.table if name in renamed else (), kind, None):
                fewer = len(_DIGITS.findall(place.name)) < len(_DIGITS.findall(legacy(name)))
                spelled = {_DIGITS.sub("0", each) for each in (place.name, place.part)}
                if fewer or place.joined_by is not None or any(taken.setdefault(s, shape) != shape for s in spelled):
                    return True
    return False


def _counts(table: Table, names: Iterable[str]) -> bool:
    """Whether a rule of the table may apply to some numbers in these names, or in what they become, and not to others.

    It may where a name has one of the rule's literals, whatever the digits of both are.
    """
    counting = [_DIGITS.sub("0", literal) for rule in table if rule.counts for literal in rule.literals]
    if not counting:
        return False
    spelled = _DIGITS.sub("0", "\n".join(step for name in names for step in _steps(name, table)))
    return any(literal in spelled for literal in counting)


def _steps(name: str, table: Table) -> Iterator[str]:
    """The name as it is before the first rule, and after each that renames it. What is joined keeps the last one."""
    renamed = legacy(name)
    yield renamed
    for rule in table:
        found = rule.renamed(renamed)
        if found and not rule.joins:
            renamed = found[0]
            yield renamed


def collisions(names: list[str], renaming: Renaming, kind: Kind, current: set[str] | None) -> Iterator[tuple[str, str]]:
    """Pairs of names with one place. Parts that one rule joins share a place and are no collision."""
    if not _may_collide(names, renaming, kind):
        return
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


def _places(name: str, table: Table, kind: Kind, current: set[str] | None) -> Iterator[Place]:
    """Where loading may put a tensor: under the renamed name, or under its own if that is a name of the live model.

    `current` has the live model's names; None: any name may be one of them.
    """
    *_, renamed = _steps(name, table)
    joined: tuple[int, tuple[str, ...]] | None = None
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
    if own != part and (current is None or (own in current and (joined is not None or part not in current))):
        yield Place(own, None, own)


@lru_cache(maxsize=1 << 17)
def _stem(kind: Kind, name: str) -> str:
    return kind.stem(name)


def _known_prefix(context: CheckContext) -> Iterator[Problem]:
    """Rejects frozen tensors whose names in the result have a prefix that the model's class does not know."""
    config = parsed(result_of(context), CONFIG)
    if context.predicate.result_kind == "adapter" or not is_known(config):
        return
    kind = kind_of(config)
    for row in context.predicate.rows:
        if row.role not in CLAIMED or row.base is None or row.result is None:
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
    for table, renamed in renamings(kind, names, joining=True):
        groups: dict[str, list[Row]] = defaultdict(list)
        changed = set(renamed)
        for row in rows:
            reading = row.result or row.base
            if reading is not None and reading.name in changed:
                for place in _places(reading.name, table, kind, set()):
                    if place.joined_by is not None:
                        groups[place.name].append(row)
        for name, members in groups.items():
            odd = [row for row in members if row.base is None or row.result is None]
            if odd and any(row.role in CLAIMED and row not in odd for row in members):
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
    """Rejects tied weights that are stored with different bytes, and frozen ones of which only the copy is stored."""
    config = parsed(result_of(context), CONFIG)
    if context.predicate.result_kind == "adapter" or not is_known(config) or not any(_tied(config)):
        return
    kind = kind_of(config)
    rows = {kind.stem(row.result.name): row for row in _stored(context) if row.result}
    for target, source in _tied_pairs(kind, rows):
        copy, original = rows.get(target), rows.get(source)
        if copy is None or original is None or not {copy.role, original.role} & set(CLAIMED):
            continue
        first, second = _readings(copy, original)
        if not first.same(second):
            reason = (
                f"config.json ties it to {second.name!r}, which is stored with other bytes; transformers 4 loads those "
                "into both; set tie_word_embeddings to false, or store one of them"
            )
            yield Problem("ties", reason, first.name)

    for name in _copies_alone(kind, rows):
        if rows[name].role in CLAIMED:
            reason = (
                "config.json ties it to weights that are not stored, and transformers 4 loads none then; store it "
                "under the other name, or set tie_word_embeddings to false"
            )
            yield Problem("ties", reason, name)


def _tied(config: Mapping[str, Any], kind: str = "") -> Iterator[bool]:
    """Whether weights are tied in a model and in those inside it. Older versions tie where a class says nothing."""
    inside = bool(kind)
    kind = str(config.get("model_type") or kind)
    known = record(kind) if is_kind(kind) else None
    flag = config.get("tie_word_embeddings")
    flag = known["tied"] if flag is None and known else flag
    silent = not inside or bool(known and known["ties"])  # a tower of pictures inside has nothing to tie
    yield silent if flag is None else bool(flag)
    for key, part in known["parts"].items() if known else ():
        inner = config.get(key)
        if isinstance(inner, Mapping):
            yield from _tied(inner, part)
        else:  # a part with defaults alone
            yield is_kind(part) and bool(record(part)["tied"])


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


def _copies_alone(kind: Kind, names: Iterable[str]) -> list[str]:
    """Stored targets of ties of which no source is stored.

    A decoder by itself, as a causal language model of an encoder-decoder's kind is, has no table that is shared with an
    encoder: its own is the one that loaders read.
    """
    names = sorted(names)
    decoder_alone = not any(name.startswith("encoder.") for name in names)
    sources: dict[str, list[str]] = defaultdict(list)
    for target, source in kind.ties:
        if not (decoder_alone and target == _DECODER_TABLE):
            sources[target].append(source)
    alone = [target for target, found in sources.items() if not any(_matching(kind, each, names) for each in found)]
    return sorted({name for target in alone for name in _matching(kind, target, names)})


def _matching(kind: Kind, pattern: str, names: list[str]) -> list[str]:
    plain = kind.stem(pattern.removeprefix("^"))
    return [name for name in names if re.match(plain, name)]


def _stored(context: CheckContext) -> tuple[Row, ...]:
    return context.predicate.rows


def _kind(context: CheckContext) -> Kind | None:
    """How the result is loaded; None for an adapter, and for a model that only its own architecture can load."""
    config = parsed(result_of(context), CONFIG)
    if context.predicate.result_kind == "adapter":
        return None
    if is_own(config):
        return None
    return kind_of(config)


CHECKS: dict[str, Check] = {
    "one_place": _one_place,
    "known_prefix": _known_prefix,
    "all_parts": _all_parts,
    "ties": _ties,
}
