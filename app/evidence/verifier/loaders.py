"""Where transformers puts a stored tensor while it loads a model: prefixes, renames, conversions and ties, by kind.

The tables are data: `loaders.json` beside this module, written by `python -m tools.loaders`. A kind is a `model_type`.
For a folder whose kind is not known, the prefixes and conversions of all kinds count.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pkgutil import get_data
from typing import Any

FILE = "loaders.json"

# Renames for every kind. In transformers 4 any name ending in gamma or beta was renamed.
_LEGACY = (
    (re.compile(r"(?<=LayerNorm\.)gamma(?!\w)|(?<=\.)gamma$"), "weight"),
    (re.compile(r"(?<=LayerNorm\.)beta(?!\w)|(?<=\.)beta$"), "bias"),
    (re.compile(r"(?<=\.)weight_g(?!\w)"), "parametrizations.weight.original0"),
    (re.compile(r"(?<=\.)weight_v(?!\w)"), "parametrizations.weight.original1"),
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A rule of a kind: a name in which a source pattern is found gets the targets in its place.

    With several targets the stored tensor is split; with `joins`, tensors of one target are parts of it.
    """

    pattern: re.Pattern[str]
    targets: tuple[str, ...]
    joins: bool

    def renamed(self, name: str) -> tuple[str, ...]:
        """The names that take the place of `name`; the empty tuple if the rule does not apply."""
        match = self.pattern.search(name)
        if match is None:
            return ()
        group = next(key for key, text in match.groupdict().items() if text is not None)
        inner = match.re.groupindex[group] + 1
        captured = match.group(inner) or "" if inner <= match.re.groups else ""
        return tuple(name.replace(match.group(0), target.replace(r"\1", captured), 1) for target in self.targets)


Table = tuple[Conversion, ...]


@dataclass(frozen=True, eq=False)  # hashed by identity: it is a key of caches
class Kind:
    """What loading does for one kind of model. `tied` is the default of `tie_word_embeddings`."""

    prefixes: tuple[str, ...]
    tables: tuple[tuple[int, ...], ...]  # numbers of rules; most are never needed, and compiling them all takes 0.1 s
    ties: tuple[tuple[str, str], ...]  # target, source: the target gets the source's bytes
    tied: bool | None

    @cached_property
    def _prefix(self) -> re.Pattern[str]:
        # One more character of any kind: transformers removes `^prefix.` as a regular expression.
        longest = sorted(self.prefixes, key=len, reverse=True)
        return re.compile(f"(?:{'|'.join(map(re.escape, longest))}).(?=.)" if longest else r"(?!)", re.DOTALL)

    def tables_for(self, names: list[str]) -> Iterator[Table]:
        """The tables of which a rule may apply to one of the names, and the empty table."""
        yield ()
        text = "\n".join(names)
        rules = _file()[1]
        fitting = {at for at in {at for table in self.tables for at in table} if _may_apply(rules[at][3], text)}
        for table in self.tables:
            if fitting.intersection(table):
                yield tuple(_rule(at) for at in table)

    def stem(self, name: str) -> str:
        """The name without base-model prefixes, which loading adds or removes as the model's class needs."""
        while match := self._prefix.match(name):
            name = name[match.end() :]
        return name


def kinds_of(config: object) -> list[str]:
    """The `model_type` of a configuration and of the models inside it."""
    found: list[str] = []
    if isinstance(config, Mapping):
        kind = config.get("model_type")
        found += [kind] if isinstance(kind, str) else []
        for value in config.values():
            found += kinds_of(value)
    return found


def kind_of(config: object) -> Kind:
    """What loading does to a model with this configuration; what it does to any kind if the outer one is unknown."""
    known, names = _document(), kinds_of(config)
    if isinstance(config, Mapping) and config.get("model_type") in known:
        return _joined(tuple(name for name in dict.fromkeys(names) if name in known))
    return _joined(tuple(known))


def is_known(config: object) -> bool:
    return isinstance(config, Mapping) and config.get("model_type") in _document()


def legacy(name: str) -> str:
    """The name after the renames that every kind gets."""
    for pattern, replacement in _LEGACY:
        name = pattern.sub(replacement, name, count=1)
    return name


@cache
def _joined(names: tuple[str, ...]) -> Kind:
    known = _document()
    parts = [known[name] for name in names]
    tables = dict.fromkeys(tuple(table) for part in parts for table in part["conversions"])
    return Kind(
        prefixes=tuple(sorted({prefix for part in parts for prefix in part["prefixes"]})),
        tables=tuple(tables),
        ties=tuple(dict.fromkeys((target, source) for part in parts for target, source in part["ties"])),
        tied=parts[0]["tied"] if len(names) < len(known) else None,
    )


def parse(text: str) -> tuple[dict[str, dict[str, Any]], list[list[Any]]]:
    """The kinds and the rules in a file as `tools.loaders` writes it."""
    document = json.loads(text)
    return document["kinds"], document["rules"]


@cache
def _rule(at: int) -> Conversion:
    return _conversion(*_file()[1][at])


def _may_apply(literals: list[str], text: str) -> bool:
    """One of the sources may be in the text: each has a literal that every match contains, or an empty one."""
    return any(literal in text for literal in literals)


def _conversion(sources: list[str], targets: list[str], joins: bool, literals: list[str]) -> Conversion:
    return Conversion(re.compile("|".join(_branches(sources))), tuple(targets), joins)


def _branches(sources: Iterable[str]) -> Iterator[str]:
    """As transformers compiles them: longest first, `*.` is any path, and a pattern ends where a word does."""
    for number, source in sorted(enumerate(sources), key=lambda item: -len(item[1])):
        pattern = source.replace("*.", r".*\.")
        bound = r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", pattern) else ""
        yield f"(?P<g{number}>{pattern}{bound})"


@cache
def _file() -> tuple[dict[str, dict[str, Any]], list[list[Any]]]:
    return parse((get_data(__package__, FILE) or b"").decode())


def _document() -> dict[str, dict[str, Any]]:
    return _file()[0]
