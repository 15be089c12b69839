"""Where transformers puts a stored tensor while it loads a model: prefixes, renames, conversions and ties, by kind.

The tables are data: `loaders.json` beside this module, written by `python -m tools.loaders`. A kind is a `model_type`.
For a folder whose kind is not known, the prefixes and conversions of all kinds count. The file has a line for each
kind, and only those that are needed are parsed: all of them take longer than a small model does.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pkgutil import get_data
from typing import NotRequired, TypedDict

from app.evidence.verifier.derived import Making

FILE = "loaders.json"
# How the lines of the file begin that a reader looks for.
EVERY, RULES, KINDS = '"every":', '"rules":[', '"kinds":{'
# Endings of the keys under which a configuration has a number of layers or stages, or a list with an entry for each.
LAYERS = ("layers", "layer", "depth", "depths", "blocks", "stages", "hidden_sizes", "groups")

# Renames for every kind.
_LEGACY = (
    (re.compile(r"(?<=LayerNorm\.)gamma(?!\w)|(?<=\.)gamma$"), "weight"),
    (re.compile(r"(?<=LayerNorm\.)beta(?!\w)|(?<=\.)beta$"), "bias"),
    (re.compile(r"(?<=\.)weight_g(?!\w)"), "parametrizations.weight.original0"),
    (re.compile(r"(?<=\.)weight_v(?!\w)"), "parametrizations.weight.original1"),
)
_ANYWHERE = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("weight_g", "parametrizations.weight.original0"),
    ("weight_v", "parametrizations.weight.original1"),
)


@dataclass(frozen=True)
class Conversion:
    """A rule of a kind: a name in which a source pattern is found gets the targets in its place.

    With several targets the stored tensor is split; with `joins`, tensors of one target are parts of it. Every name
    that the rule applies to has one of the `literals` in it: most patterns are never compiled.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    joins: bool
    literals: tuple[str, ...]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(_branches(self.sources)))

    @cached_property
    def counts(self) -> bool:
        """Whether it applies to some numbers in a name and not to others, or adds numbers."""
        return any(re.search(r"(?<!\\)\d", text) for text in (*self.sources, *self.targets))

    def match(self, name: str) -> re.Match[str] | None:
        """Where the rule applies."""
        for literal in self.literals:
            if literal in name:
                return self._pattern.search(name)
        return None

    def renamed(self, name: str) -> tuple[str, ...]:
        """The names that take the place of `name`; the empty tuple if the rule does not apply."""
        match = self.match(name)
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
    def _by_first(self) -> dict[str, list[str]]:
        """Prefixes by their first letter, longest first. An expression of all of them takes longer to compile."""
        found: dict[str, list[str]] = {}
        for prefix in sorted(self.prefixes, key=len, reverse=True):
            found.setdefault(prefix[:1], []).append(prefix)
        return found

    @cached_property
    def doubled(self) -> tuple[str, ...]:
        """The beginnings of names that have a prefix twice."""
        return tuple(f"{prefix}.{prefix}." for prefix in self.prefixes if prefix)

    def tables_for(self, names: list[str]) -> Iterator[Table]:
        """The tables of which a rule may apply to one of the names, and the empty table."""
        yield ()
        text = "\n".join(names)
        rules = {at for table in self.tables for at in table}
        fitting = {at for at in rules if any(literal in text for literal in _rules()[at][3])}
        for table in self.tables:
            if fitting.intersection(table):
                yield tuple(_rule(at) for at in table)

    def stem(self, name: str) -> str:
        """The name without base-model prefixes, which loading adds or removes as the model's class needs."""
        while True:
            for prefix in self._by_first.get(name[:1], ()):
                # One more character of any kind: transformers removes `^prefix.` as a regular expression.
                if name.startswith(prefix) and len(name) > len(prefix) + 1:
                    name = name[len(prefix) + 1 :]
                    break
            else:
                return name


class Record(TypedDict):
    """What the file has for a kind. `parts` are the configurations inside its configuration, by key."""

    prefixes: list[str]
    conversions: list[list[int]]
    ties: list[list[str]]
    tied: bool | None
    layers: list[tuple[int, list[str]]]  # how many layers there are by default, and the keys that say so
    parts: dict[str, str]
    shape: dict[str, object]  # keys that decide which tensors there are, with their defaults
    derived: NotRequired[list[str]]  # those that the class takes from others where they are not given
    making: NotRequired[Making]  # how it takes them
    extra: NotRequired[dict[str, object]]  # those that the class has no key for, with what it takes then
    aliases: NotRequired[dict[str, list[str]]]  # other names of both
    grown: NotRequired[dict[str, object]]  # what the class adds to the end of a list whenever it is made
    fixed: NotRequired[list[str]]  # parts whose kind the class chooses, whatever their configuration says
    inner: NotRequired[dict[str, dict[str, object]]]  # what else a part is by default than its class by itself
    filled: NotRequired[list[str]]  # parts that get it where they are given, too
    classes: NotRequired[list[str]]  # its classes in auto mappings
    choices: NotRequired[list[list[str]]]  # those between which a mapping chooses by `architectures`, the usual first


def kinds_of(config: object) -> list[str]:
    """The `model_type` of a configuration and of the models inside it, and those that are inside by default."""
    named = list(_named_in(config))
    by_default = (part for kind in named if is_kind(kind) for part in record(kind)["parts"].values())
    return list(dict.fromkeys((*named, *by_default)))


def _named_in(config: object) -> Iterator[str]:
    if isinstance(config, Mapping):
        kind = config.get("model_type")
        if isinstance(kind, str):
            yield kind
        for value in config.values():
            yield from _named_in(value)


def kind_of(config: object) -> Kind:
    """What loading does to a model with this configuration; what it does to any kind if the outer one is unknown."""
    if is_known(config):
        return _joined(tuple(filter(is_kind, kinds_of(config))))
    return _joined(())


def is_known(config: object) -> bool:
    return isinstance(config, Mapping) and is_kind(config.get("model_type"))


def is_kind(name: object) -> bool:
    return isinstance(name, str) and name in _file()[1]


@lru_cache(maxsize=1 << 16)  # the same for each table
def legacy(name: str) -> str:
    """The name after the renames that every kind gets."""
    for pattern, replacement in _LEGACY:
        name = pattern.sub(replacement, name, count=1)
    return name


def layer_count(value: object) -> int | None:
    """The number of layers that a value of a configuration stands for."""
    numbers = [value] if isinstance(value, int) else [*value, len(value)] if isinstance(value, list) else []
    return max((number for number in numbers if type(number) is int), default=None)


def in_transformers_4(name: str) -> str:
    """The name after the renames of transformers before 4.50, which replaced text anywhere in a name."""
    for old, new in _ANYWHERE:
        name = name.replace(old, new)
    return name


@cache
def record(name: str) -> Record:
    """What the file has for a kind that it knows."""
    found: Record = json.loads(_file()[1][name])
    return found


def is_class(name: str) -> bool:
    """Whether a kind has a class of this name."""
    found = f'"{name}"'
    return any(found in line and name in record(kind).get("classes", ()) for kind, line in _file()[1].items())


@cache
def _joined(names: tuple[str, ...]) -> Kind:
    """The kinds in one; all that the file has for no names."""
    parts = [record(name) for name in names] if names else [json.loads(_file()[0])]
    tables = dict.fromkeys(tuple(table) for part in parts for table in part["conversions"])
    return Kind(
        prefixes=tuple(sorted({prefix for part in parts for prefix in part["prefixes"]})),
        tables=tuple(tables),
        ties=tuple(dict.fromkeys((target, source) for part in parts for target, source in part["ties"])),
        tied=parts[0]["tied"] if names else None,
    )


@cache
def _rule(at: int) -> Conversion:
    sources, targets, joins, literals = _rules()[at]
    return Conversion(tuple(sources), tuple(targets), joins, tuple(literals))


def _branches(sources: Iterable[str]) -> Iterator[str]:
    """As transformers compiles them: longest first, `*.` is any path, and a pattern ends where a word does."""
    for number, source in sorted(enumerate(sources), key=lambda item: -len(item[1])):
        pattern = source.replace("*.", r".*\.")
        bound = r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", pattern) else ""
        yield f"(?P<g{number}>{pattern}{bound})"


@cache
def _rules() -> list[tuple[list[str], list[str], bool, list[str]]]:
    found: list[tuple[list[str], list[str], bool, list[str]]] = json.loads(_file()[2])
    return found


@cache
def _file() -> tuple[str, dict[str, str], str]:
    """JSON for all kinds in one, for each kind, and for the rules."""
    lines = (get_data(__package__, FILE) or b"").decode().splitlines()
    rules, kinds = lines.index(RULES), lines.index(KINDS)
    every = next(line for line in lines if line.startswith(EVERY))
    named = (line.partition(":") for line in lines[kinds + 1 : lines.index("}", kinds)])
    by_name = {name[1:-1]: body.rstrip(",") for name, _, body in named}
    ends = lines.index("],", rules)
    return every.removeprefix(EVERY).rstrip(","), by_name, f"[{''.join(lines[rules + 1 : ends])}]"
