"""Finds the names that a rule's selectors match, or explains with the nearest real names why no name matches."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from app.errors import PolicyError
from app.freeze.glob import compile_glob, literal_end, literal_prefix
from app.freeze.policy import Layers, Policy, Rule
from app.freeze.tensors import TensorInfo


class Index:
    """All names of all tensors in one sorted list, of which a literal prefix selects a slice."""

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        self.tensors = sorted(tensors, key=lambda tensor: tensor.name)
        owner = {tensor.name: at for at, tensor in enumerate(self.tensors)}
        count = len(self.tensors)
        for at, tensor in enumerate(self.tensors):
            if tensor.aliases:
                owner.update(dict.fromkeys(tensor.aliases, at))
                count += len(tensor.aliases)
        if len(owner) != count:
            raise ValueError(f"the name {self._twice()!r} stands for two tensors")
        self.names = sorted(owner)
        self.owner = [owner[name] for name in self.names]
        self.position = {name: position for position, name in enumerate(self.names)}

    def _twice(self) -> str:
        seen = Counter(name for tensor in self.tensors for name in (tensor.name, *tensor.aliases))
        return seen.most_common(1)[0][0]

    def under(self, path: str) -> range:
        """Positions of the names below the module `path`; '' is the root."""
        if not path:
            return range(len(self.names))
        # "/" is the character after ".": the slice holds exactly the names that begin with "path."
        return range(bisect_left(self.names, path + "."), bisect_left(self.names, path + "/"))

    @cached_property
    def modules(self) -> list[str]:
        """Every module path that holds a tensor."""
        paths: set[str] = set()
        for name in self.names:
            end = name.rfind(".")
            while end > 0 and name[:end] not in paths:
                paths.add(name[:end])
                end = name.rfind(".", 0, end)
        return sorted(paths)


def matching(rule: Rule, index: Index, policy: Policy) -> list[int]:
    """Positions that satisfy every selector of the rule, in order of name."""
    select, at = rule.select, rule.select_at()
    matches: list[set[int]] = []
    for key in ("name", "regex", "module", "module_type"):
        patterns = getattr(select, key)
        if patterns:
            matches.append(_any_of(rule, index, key, patterns))
    if select.layers:
        matches.append(_in_layers(rule, index, select.layers))
    if select.kind:
        matches.append({p for p, owner in enumerate(index.owner) if index.tensors[owner].kind == select.kind})
    common = set.intersection(*matches)
    if not common:
        counts = ", ".join(f"{len(positions)}" for positions in matches)
        problem = f"no tensor satisfies all of its selectors together (they match {counts} by themselves)"
        if len(matches) == 1:
            problem = f"the model has no {select.kind}"
        raise PolicyError(f"rule '{rule.id}' matches nothing: {problem}", param=at)
    selected = sorted(common)
    if policy.buffers == "track" and select.kind != "buffer":
        selected = [p for p in selected if index.tensors[index.owner[p]].kind == "parameter"]
    if not selected:
        raise PolicyError(
            f'rule \'{rule.id}\' matches only buffers, and "buffers": "track" leaves buffers alone: '
            'add "kind": "buffer" to select them all the same',
            param=at,
        )
    return selected


def _any_of(rule: Rule, index: Index, key: str, patterns: Sequence[str]) -> set[int]:
    where = rule.select_at(key)
    matched: set[int] = set()
    for number, pattern in enumerate(patterns):
        positions = _SELECTORS[key](index, pattern)
        if not positions:
            param = where if len(patterns) == 1 else f"{where}[{number}]"
            raise PolicyError(f"rule '{rule.id}' matches nothing: {_no_match(index, key, pattern)}", param=param)
        matched.update(positions)
    return matched


def _by_name(index: Index, pattern: str) -> Iterable[int]:
    if "*" not in pattern:
        position = index.position.get(pattern)
        return [] if position is None else [position]
    prefix = literal_prefix(pattern)
    positions = index.under(prefix)
    if pattern == "**":
        return positions
    if pattern == f"{prefix}.**":
        return [*positions, *_by_name(index, prefix)]
    matches, end = compile_glob(pattern), literal_end(pattern)
    names = index.names[positions.start : positions.stop]
    found = [p for p, name in zip(positions, names, strict=True) if name.endswith(end) and matches(name)]
    # `a.**` also means `a` itself, which is not below `a`.
    exact = index.position.get(prefix)
    return [*found, exact] if exact is not None and matches(prefix) else found


def _by_regex(index: Index, pattern: str) -> Iterable[int]:
    from app.freeze.regex import compile_regex  # few policies have one, and a verifier starts without it

    matches = compile_regex(pattern)
    return [p for p, name in enumerate(index.names) if matches(name)]


def _by_module(index: Index, pattern: str) -> Iterable[int]:
    if "*" not in pattern:
        return index.under(pattern)
    return _by_name(index, f"{pattern}.*.**")


def _by_module_type(index: Index, pattern: str) -> Iterable[int]:
    """A plain class name is compared with the last part of a dotted one. A tie's other names share the answer."""
    matches = compile_glob(pattern)
    dotted = "." in pattern
    matching_types: dict[tuple[str, ...], bool] = {}
    for tensor in index.tensors:
        types = tensor.module_types
        if types not in matching_types:
            matching_types[types] = any(matches(name if dotted else name.rpartition(".")[2]) for name in types)
    return [p for p, owner in enumerate(index.owner) if matching_types[index.tensors[owner].module_types]]


_SELECTORS: dict[str, Callable[[Index, str], Iterable[int]]] = {
    "name": _by_name,
    "regex": _by_regex,
    "module": _by_module,
    "module_type": _by_module_type,
}


def _in_layers(rule: Rule, index: Index, layers: Layers) -> set[int]:
    where = rule.select_at("layers")
    children = _numbered_children(index, layers.path)
    if not children:
        raise PolicyError(f"rule '{rule.id}' matches nothing: {_no_layers(index, layers.path)}", param=f"{where}.path")
    present = sorted(children)
    selected = _chosen_layers(rule, layers, present, where)
    return {position for number in selected for position in children[number]}


def _numbered_children(index: Index, path: str) -> dict[int, list[int]]:
    """Positions under each integer child of a module, found by leaps from child to child."""
    children: dict[int, list[int]] = {}
    below = index.under(path)
    position = below.start
    while position < below.stop:
        name = index.names[position]
        child = name[len(path) + 1 :].partition(".")[0]
        prefix = f"{path}.{child}"
        positions = [position] if name == prefix else index.under(prefix)
        if child.isascii() and child.isdigit():
            children.setdefault(int(child), []).extend(positions)
        position = positions[-1] + 1
    return children


def _chosen_layers(rule: Rule, layers: Layers, present: list[int], where: str) -> list[int]:
    layer_count = f"{layers.path} has {len(present)} layers, {present[0]} to {present[-1]}"
    count = layers.first or layers.last
    if count:
        if count > len(present):
            key = "first" if layers.first else "last"
            raise PolicyError(
                f"rule '{rule.id}' asks for the {key} {count} layers; {layer_count}", param=f"{where}.{key}"
            )
        return present[:count] if layers.first else present[-count:]
    start = layers.start or 0
    stop = present[-1] + 1 if layers.stop is None else layers.stop
    if stop > present[-1] + 1:
        raise PolicyError(
            f"rule '{rule.id}' asks for layers up to {stop - 1} ('to' is not included); {layer_count}",
            param=f"{where}.to",
        )
    selected = [number for number in present if start <= number < stop]
    if not selected:
        raise PolicyError(f"rule '{rule.id}' asks for layers {start} to {stop - 1}; {layer_count}", param=where)
    return selected


def listed(words: Sequence[str]) -> str:
    quoted = [f"'{word}'" for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f" and {quoted[-1]}"


MAX_CANDIDATES = 2_000  # difflib compares a few thousand names in a few tens of milliseconds


def _no_match(index: Index, key: str, pattern: str) -> str:
    """The reason why no name matches, and the nearest real names."""
    noun = {"name": "tensor has the name", "regex": "tensor's whole name matches the regex"}
    noun |= {"module": "module has the path", "module_type": "tensor is inside a module of type"}
    hint = ""
    if key == "name" and "*" not in pattern and index.under(pattern):
        return f"'{pattern}' is a module, not a tensor; write '{pattern}.**' for all that is in it"
    if key != "regex" and any(character in pattern for character in "?[{"):
        hint = " (only '*' and '**' are wildcards)"
    return f"no {noun[key]} '{pattern}'{hint}{_nearest(pattern, _candidates(index, key, pattern))}"


def _no_layers(index: Index, path: str) -> str:
    lists = sorted({m.rpartition(".")[0] for m in index.modules if m.rpartition(".")[2].isdigit()} - {""})
    what = "has no numbered layers" if index.under(path) else "is no module"
    return f"'{path}' {what}{_nearest(path, lists)}"


def _candidates(index: Index, key: str, pattern: str) -> list[str]:
    if key == "module":
        return index.modules
    if key == "module_type":
        return sorted({name.rpartition(".")[2] for t in index.tensors for name in t.module_types} - {""})
    if key == "name" and pattern.endswith(".**"):
        return [f"{path}.**" for path in index.modules]
    return index.names


def _nearest(text: str, candidates: list[str]) -> str:
    if len(candidates) > MAX_CANDIDATES:
        last = text.replace("*", "").strip(".").rpartition(".")[2]
        candidates = [c for c in candidates if last in c][:MAX_CANDIDATES] or candidates[:MAX_CANDIDATES]
    import difflib  # only for a message: a verifier starts without it

    close = difflib.get_close_matches(text, candidates, n=3, cutoff=0.5)
    if close:
        return f"; nearest: {listed(close)}"
    return f"; there are {listed(candidates[:3])} and others" if candidates else ""
