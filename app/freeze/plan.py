"""What a policy decides for every tensor of a model: one pure function for preview, trainer and verifier."""

from __future__ import annotations

import difflib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from app.errors import PolicyError
from app.freeze.glob import compile_glob, literal_prefix
from app.freeze.policy import WHOLE_RUN, Layers, Policy, Rule
from app.freeze.regex import compile_regex

Ranges = tuple[tuple[int, int], ...]
Intervals = tuple[tuple[int, int | None], ...]

# Bits per element of the safetensors dtype codes.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "C128": 128,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a live model under its own name; `aliases` are other names with the same storage."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str = "parameter"
    aliases: tuple[str, ...] = ()
    module_types: tuple[str, ...] = ()  # class names of the enclosing modules, the root first
    persistent: bool = True  # False: a buffer that no saved file holds

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return (self.elements * DTYPE_BITS[self.dtype] + 7) // 8

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "kind": self.kind,
            "aliases": list(self.aliases),
            "module_types": list(self.module_types),
            "persistent": self.persistent,
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> TensorInfo:
        return cls(
            name=obj["name"],
            shape=tuple(obj["shape"]),
            dtype=obj["dtype"],
            kind=obj.get("kind", "parameter"),
            aliases=tuple(obj.get("aliases", ())),
            module_types=tuple(obj.get("module_types", ())),
            persistent=obj.get("persistent", True),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one tensor. Row ranges are half-open and only there for a split; buffers have no mechanism."""

    name: str
    kind: str
    action: str  # "freeze" | "train" | "split"
    rule: str  # id of the deciding rule, or "default"
    mechanism: str | None
    aliases: tuple[str, ...]
    elements: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    frozen_rows: Ranges = ()
    trainable_rows: Ranges = ()
    intervals: Intervals = ()
    persistent: bool = True

    @property
    def scheduled(self) -> bool:
        """Frozen for some steps of the run and trained in the others."""
        return self.action == "freeze" and self.intervals != WHOLE_RUN

    @property
    def frozen_elements(self) -> int:
        """Elements that must not change during the whole run."""
        if self.action == "split":
            rows = sum(stop - start for start, stop in self.frozen_rows)
            return self.elements // self.shape[0] * rows
        return self.elements if self.action == "freeze" and not self.scheduled else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "action": self.action,
            "rule": self.rule,
            "mechanism": self.mechanism,
            "aliases": list(self.aliases),
            "elements": self.elements,
            "nbytes": self.nbytes,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "frozen_rows": [list(bounds) for bounds in self.frozen_rows],
            "trainable_rows": [list(bounds) for bounds in self.trainable_rows],
            "intervals": [list(bounds) for bounds in self.intervals],
            "persistent": self.persistent,
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Decision:
        tuples = {key: tuple(map(tuple, obj[key])) for key in ("frozen_rows", "trainable_rows", "intervals")}
        return cls(**{**obj, **tuples, "aliases": tuple(obj["aliases"]), "shape": tuple(obj["shape"])})


@dataclass(frozen=True)
class FreezePlan:
    """One decision per tensor, by name; `frozen`, `scheduled`, `split`, `trainable`, `tracked` partition them."""

    decisions: tuple[Decision, ...]
    policy: Policy
    warnings: tuple[str, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Decision]:
        return {name: decision for decision in self.decisions for name in (decision.name, *decision.aliases)}

    def decision(self, name: str) -> Decision:
        """By a tensor's name or any of its aliases; KeyError when the model has no such tensor."""
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @cached_property
    def frozen(self) -> tuple[Decision, ...]:
        """Parameters and buffers that must not change during the whole run."""
        return tuple(d for d in self.decisions if d.action == "freeze" and not d.scheduled)

    @cached_property
    def scheduled(self) -> tuple[Decision, ...]:
        """Frozen during their `intervals` only."""
        return tuple(d for d in self.decisions if d.scheduled)

    @cached_property
    def split(self) -> tuple[Decision, ...]:
        """Parameters of which some rows train."""
        return tuple(d for d in self.decisions if d.action == "split")

    @cached_property
    def trainable(self) -> tuple[Decision, ...]:
        """Parameters that train as a whole, for the whole run."""
        return tuple(d for d in self.decisions if d.action == "train" and d.kind == "parameter")

    @cached_property
    def tracked(self) -> tuple[Decision, ...]:
        """Buffers that may move: reported, never claimed."""
        return tuple(d for d in self.decisions if d.action == "train" and d.kind == "buffer")

    def counts(self) -> dict[str, dict[str, int]]:
        """What is frozen for the whole run and what trains, among the tensors that a saved file holds.

        A partly frozen tensor counts as trainable and its frozen rows' elements as frozen; a scheduled parameter is
        trainable; a buffer that may move is neither.
        """
        frozen = trainable = frozen_elements = frozen_bytes = trainable_elements = trainable_bytes = 0
        for d in self.decisions:
            if not d.persistent:
                continue
            elements = d.frozen_elements
            nbytes = d.nbytes * elements // d.elements if d.elements else 0
            frozen_elements += elements
            frozen_bytes += nbytes
            if d.action == "freeze" and not d.scheduled:
                frozen += 1
            elif d.kind == "parameter":
                trainable += 1
                trainable_elements += d.elements - elements
                trainable_bytes += d.nbytes - nbytes
        return {
            "frozen": {"tensors": frozen, "elements": frozen_elements, "bytes": frozen_bytes},
            "trainable": {"tensors": trainable, "elements": trainable_elements, "bytes": trainable_bytes},
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy.to_json(),
            "decisions": [decision.to_json() for decision in self.decisions],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> FreezePlan:
        return cls(
            decisions=tuple(Decision.from_json(item) for item in obj["decisions"]),
            policy=Policy.from_json(obj["policy"]),
            warnings=tuple(obj["warnings"]),
        )


def resolve(policy: Policy, tensors: Iterable[TensorInfo]) -> FreezePlan:
    """Decide every tensor, or raise PolicyError where the policy does not mean what it says.

    The order of `tensors` does not matter. Each of a tensor's names is decided by itself, and they must agree.
    """
    index = _Index(tensors)
    claims = _Claims(index)
    for number, rule in enumerate(policy.rules):
        claims.add(number, rule, _matching(rule, index, policy), policy.rules)
    decided = [_decide(policy, index, claims, at) for at in range(len(index.tensors))]
    verdicts = _follow(policy, index, decided)
    decisions = tuple(map(_decision, index.tensors, verdicts))
    _require_training(policy, decisions)
    return FreezePlan(decisions, policy, _warnings(policy, decisions))


class _Index:
    """All names of all tensors in one sorted list, so that a literal prefix is a slice of it."""

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        self.tensors = sorted(tensors, key=lambda tensor: tensor.name)
        pairs = sorted((name, at) for at, t in enumerate(self.tensors) for name in (t.name, *t.aliases))
        self.names = [name for name, _ in pairs]
        self.owner = [at for _, at in pairs]
        self.position = {name: position for position, name in enumerate(self.names)}
        if len(self.position) != len(self.names):
            twice = next(a for a, b in zip(self.names, self.names[1:], strict=False) if a == b)
            raise ValueError(f"the name {twice!r} stands for two tensors")

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


def _matching(rule: Rule, index: _Index, policy: Policy) -> list[int]:
    """Positions that satisfy every selector of the rule, in order of name."""
    select, at = rule.select, rule.select_at()
    found: list[set[int]] = []
    for key in ("name", "regex", "module", "module_type"):
        patterns = getattr(select, key)
        if patterns:
            found.append(_any_of(rule, index, key, patterns))
    if select.layers:
        found.append(_in_layers(rule, index, select.layers))
    if select.kind:
        found.append({p for p, owner in enumerate(index.owner) if index.tensors[owner].kind == select.kind})
    both = set.intersection(*found)
    if not both:
        each = ", ".join(f"{len(positions)}" for positions in found)
        problem = f"no tensor satisfies all of its selectors together (they match {each} by themselves)"
        if len(found) == 1:
            problem = f"the model has no {select.kind}"
        raise PolicyError(f"rule '{rule.id}' matches nothing: {problem}", param=at)
    kept = [p for p in both if _claimable(rule, index.tensors[index.owner[p]], policy)]
    if not kept:
        raise PolicyError(
            f'rule \'{rule.id}\' matches only buffers, and "buffers": "track" leaves buffers alone: '
            'add "kind": "buffer" to select them all the same',
            param=at,
        )
    kept.sort()
    return kept


def _claimable(rule: Rule, tensor: TensorInfo, policy: Policy) -> bool:
    """Under `track` a buffer is decided only by a rule that asks for buffers."""
    return tensor.kind == "parameter" or policy.buffers == "pin" or rule.select.kind == "buffer"


def _any_of(rule: Rule, index: _Index, key: str, patterns: Sequence[str]) -> set[int]:
    where = rule.select_at(key)
    found: set[int] = set()
    for number, pattern in enumerate(patterns):
        positions = _SELECTORS[key](index, pattern)
        if not positions:
            param = where if len(patterns) == 1 else f"{where}[{number}]"
            raise PolicyError(f"rule '{rule.id}' matches nothing: {_no_match(index, key, pattern)}", param=param)
        found.update(positions)
    return found


def _by_name(index: _Index, pattern: str) -> Iterable[int]:
    if "*" not in pattern:
        position = index.position.get(pattern)
        return [] if position is None else [position]
    prefix = literal_prefix(pattern)
    positions = index.under(prefix)
    if pattern == "**":
        return positions
    if pattern == f"{prefix}.**":
        return [*positions, *_by_name(index, prefix)]
    matches = compile_glob(pattern)
    found = [p for p in positions if matches(index.names[p])]
    # `a.**` also means `a` itself, which does not stand below `a`.
    exact = index.position.get(prefix)
    return [*found, exact] if exact is not None and matches(prefix) else found


def _by_regex(index: _Index, pattern: str) -> Iterable[int]:
    matches = compile_regex(pattern)
    return [p for p, name in enumerate(index.names) if matches(name)]


def _by_module(index: _Index, pattern: str) -> Iterable[int]:
    if "*" not in pattern:
        return index.under(pattern)
    return _by_name(index, f"{pattern}.*.**")


def _by_module_type(index: _Index, pattern: str) -> Iterable[int]:
    """A plain class name is compared with the last part of a dotted one. A tie's other names share the answer."""
    matches = compile_glob(pattern)
    whole = "." in pattern
    known: dict[tuple[str, ...], bool] = {}
    for tensor in index.tensors:
        types = tensor.module_types
        if types not in known:
            known[types] = any(matches(name if whole else name.rpartition(".")[2]) for name in types)
    return [p for p, owner in enumerate(index.owner) if known[index.tensors[owner].module_types]]


_SELECTORS: dict[str, Callable[[_Index, str], Iterable[int]]] = {
    "name": _by_name,
    "regex": _by_regex,
    "module": _by_module,
    "module_type": _by_module_type,
}


def _in_layers(rule: Rule, index: _Index, layers: Layers) -> set[int]:
    where = rule.select_at("layers")
    children: dict[int, list[int]] = {}
    skip = len(layers.path) + 1
    for position in index.under(layers.path):
        child = index.names[position][skip:].partition(".")[0]
        if child.isascii() and child.isdigit():
            children.setdefault(int(child), []).append(position)
    if not children:
        raise PolicyError(f"rule '{rule.id}' matches nothing: {_no_layers(index, layers.path)}", param=f"{where}.path")
    present = sorted(children)
    chosen = _chosen_layers(rule, layers, present, where)
    return {position for number in chosen for position in children[number]}


def _chosen_layers(rule: Rule, layers: Layers, present: list[int], where: str) -> list[int]:
    there = f"{layers.path} has {len(present)} layers, {present[0]} to {present[-1]}"
    count = layers.first or layers.last
    if count:
        if count > len(present):
            key = "first" if layers.first else "last"
            raise PolicyError(f"rule '{rule.id}' asks for the {key} {count} layers; {there}", param=f"{where}.{key}")
        return present[:count] if layers.first else present[-count:]
    start = layers.start or 0
    stop = present[-1] + 1 if layers.stop is None else layers.stop
    if stop > present[-1] + 1:
        raise PolicyError(
            f"rule '{rule.id}' asks for layers up to {stop - 1} ('to' is not included); {there}", param=f"{where}.to"
        )
    chosen = [number for number in present if start <= number < stop]
    if not chosen:
        raise PolicyError(f"rule '{rule.id}' asks for layers {start} to {stop - 1}; {there}", param=where)
    return chosen


class _Claims:
    """Which rule has taken which name, in part (`rows`) or whole."""

    def __init__(self, index: _Index) -> None:
        self.index = index
        self.whole: list[int] = [-1] * len(index.names)
        self.rows: dict[int, list[tuple[int, int, int]]] = {}  # position -> (start, stop, rule number)

    def add(self, number: int, rule: Rule, matched: list[int], rules: Sequence[Rule]) -> None:
        taken = [p for p in matched if self.whole[p] < 0]
        if not taken:
            earlier = list(dict.fromkeys(rules[self.whole[p]].id for p in matched))
            raise PolicyError(
                f"rule '{rule.id}' decides nothing: all {len(matched)} names that it matches are already decided by "
                f"{_and(earlier)}; the first match wins, so put '{rule.id}' above",
                param=rule.at,
            )
        elements: Callable[[TensorInfo], int]
        if rule.select.rows:
            for position in taken:
                self._add_rows(number, rule, position, rules)
            count = sum(stop - start for start, stop in rule.select.rows)
            elements = lambda tensor: tensor.elements // tensor.shape[0] * count  # noqa: E731
        else:
            for position in taken:
                self.whole[position] = number
            elements = lambda tensor: tensor.elements  # noqa: E731
        _check_expect(rule, self.index, taken, len(matched), elements)

    def _add_rows(self, number: int, rule: Rule, position: int, rules: Sequence[Rule]) -> None:
        name, tensor = self.index.names[position], self.index.tensors[self.index.owner[position]]
        where = rule.select_at("rows")
        if tensor.kind != "parameter":
            raise PolicyError(f"rule '{rule.id}': '{name}' is a buffer; only parameters can be split", param=where)
        if not tensor.shape:
            raise PolicyError(f"rule '{rule.id}': '{name}' is a scalar and has no rows", param=where)
        rows, pieces = tensor.shape[0], self.rows.setdefault(position, [])
        for start, stop in rule.select.rows:
            if stop > rows:
                raise PolicyError(
                    f"rule '{rule.id}': rows [{start}, {stop}] of '{name}', which has {rows} rows (0 to {rows - 1})",
                    param=where,
                )
            for other_start, other_stop, other in pieces:
                if start < other_stop and other_start < stop:
                    raise PolicyError(
                        f"rule '{rule.id}': rows [{start}, {stop}] of '{name}' overlap rows "
                        f"[{other_start}, {other_stop}] of rule '{rules[other].id}'",
                        param=where,
                    )
        pieces.extend((start, stop, number) for start, stop in rule.select.rows)
        if sum(stop - start for start, stop, _ in pieces) == rows:
            self.whole[position] = number  # no row is left for the rules below


def _check_expect(
    rule: Rule, index: _Index, taken: list[int], matched: int, elements: Callable[[TensorInfo], int]
) -> None:
    if rule.expect is None:
        return
    owners = {index.owner[p] for p in taken}
    tensors = [index.tensors[owner] for owner in owners if index.tensors[owner].persistent]
    found = {"tensors": len(tensors), "elements": sum(map(elements, tensors))}
    for key, wanted in rule.expect.to_json().items():
        if found[key] != wanted:
            shadowed = f" ({matched - len(taken)} of its {matched} names went to rules above)"
            raise PolicyError(
                f"rule '{rule.id}' expects {wanted} {key} and decides {found[key]}"
                + (shadowed if matched > len(taken) else "")
                + f"; among them {_and(sorted(t.name for t in tensors)[:3])}",
                param=f"{rule.at}.expect.{key}",
            )


@dataclass(frozen=True, slots=True)
class _Verdict:
    action: str
    mechanism: str | None
    intervals: Intervals
    frozen_rows: Ranges = ()
    trainable_rows: Ranges = ()
    rule: str = field(default="default", compare=False)  # two rules may say the same about two names of one tensor


def _decide(policy: Policy, index: _Index, claims: _Claims, at: int) -> _Verdict:
    tensor = index.tensors[at]
    verdict = _verdict(policy, claims, index.position[tensor.name], tensor)
    for alias in tensor.aliases:
        other = _verdict(policy, claims, index.position[alias], tensor)
        if other != verdict:
            raise PolicyError(
                f"'{tensor.name}' and '{alias}' are one tensor (they share storage), and the policy decides twice: "
                f"{_described(verdict)}, and {_described(other)}; name both in one rule",
                param=_where(policy, other if other.rule != "default" else verdict),
            )
    return verdict


def _verdict(policy: Policy, claims: _Claims, position: int, tensor: TensorInfo) -> _Verdict:
    number = claims.whole[position]
    rest = _of_rule(policy, number)
    pieces = claims.rows.get(position)
    return _with_rows(policy, rest, pieces, tensor) if pieces else rest


def _of_rule(policy: Policy, number: int) -> _Verdict:
    if number < 0:
        frozen = policy.default == "freeze"
        return _Verdict(policy.default, policy.mechanism if frozen else None, WHOLE_RUN if frozen else ())
    rule = policy.rules[number]
    return _Verdict(rule.action, rule.mechanism, rule.intervals, rule=rule.id)


def _with_rows(policy: Policy, rest: _Verdict, pieces: list[tuple[int, int, int]], tensor: TensorInfo) -> _Verdict:
    """Rows decided by `rows` rules, the others by what decides the rest of the tensor."""
    pieces = sorted(pieces)
    frozen = [(a, b) for a, b, number in pieces if policy.rules[number].action == "freeze"]
    train = [(a, b) for a, b, number in pieces if policy.rules[number].action == "train"]
    holes = _holes(pieces, tensor.shape[0])
    (frozen if rest.action == "freeze" else train).extend(holes)
    first = policy.rules[pieces[0][2]]
    if holes and rest.action == "freeze" and rest.intervals != WHOLE_RUN:
        raise PolicyError(
            f"rule '{first.id}' takes rows of '{tensor.name}', and rule '{rest.rule}' schedules the rest: "
            "only a whole tensor can be frozen for some steps",
            param=first.select_at("rows"),
        )
    ways = {policy.rules[number].mechanism for _, _, number in pieces} | ({rest.mechanism} if holes else set())
    ways.discard(None)
    if len(ways) > 1:
        raise PolicyError(
            f"the frozen rows of '{tensor.name}' have two mechanisms, {_and(sorted(filter(None, ways)))}: use one",
            param=f"{first.at}.mechanism",
        )
    mechanism = ways.pop() if ways else None
    if not train:
        return _Verdict("freeze", mechanism, WHOLE_RUN, rule=first.id)
    if not frozen:
        return _Verdict("train", None, (), rule=first.id)
    return _Verdict("split", mechanism, WHOLE_RUN, _joined(frozen), _joined(train), rule=first.id)


def _holes(pieces: list[tuple[int, int, int]], rows: int) -> list[tuple[int, int]]:
    holes, at = [], 0
    for start, stop, _ in [*pieces, (rows, rows, -1)]:
        if at < start:
            holes.append((at, start))
        at = stop
    return holes


def _joined(ranges: list[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def _follow(policy: Policy, index: _Index, decided: list[_Verdict]) -> list[_Verdict]:
    """A buffer that no rule names follows the parameters of its module, and buffers have no mechanism."""
    buffers = [at for at, tensor in enumerate(index.tensors) if tensor.kind == "buffer"]
    modules = _Modules(index, decided) if buffers else None
    verdicts = list(decided)
    for at in buffers:
        verdict = decided[at]
        if verdict.rule == "default":
            verdict = _Verdict("train", None, ())
            if policy.buffers == "pin" and modules:
                verdict = modules.verdict(index.tensors[at].name, policy)
        verdicts[at] = _Verdict(verdict.action, None, verdict.intervals, rule=verdict.rule)
    return verdicts


class _Modules:
    """What all parameters under a module have in common."""

    def __init__(self, index: _Index, decided: list[_Verdict]) -> None:
        # path -> the verdicts of the parameters below it; a handful at most, as equal ones are one
        self.under: dict[str, set[tuple[str, Intervals]]] = {}
        self.rule: dict[str, str] = {}
        for tensor, verdict in zip(index.tensors, decided, strict=True):
            if tensor.kind == "parameter":
                self._add(tensor.name, verdict)

    def _add(self, name: str, verdict: _Verdict) -> None:
        path = name
        while path:
            path = path.rpartition(".")[0]
            self.under.setdefault(path, set()).add((verdict.action, verdict.intervals))
            self.rule.setdefault(path, verdict.rule)

    def verdict(self, buffer: str, policy: Policy) -> _Verdict:
        path = buffer.rpartition(".")[0]
        if path not in self.under and policy.default == "freeze":
            return _Verdict("freeze", None, WHOLE_RUN)
        while path and path not in self.under:  # a module without parameters goes with the one around it
            path = path.rpartition(".")[0]
        found = self.under.get(path, set())
        if len(found) == 1:
            action, intervals = next(iter(found))
            if action == "freeze":
                return _Verdict("freeze", None, intervals, rule=self.rule[path])
        return _Verdict("train", None, ())


def _decision(tensor: TensorInfo, verdict: _Verdict) -> Decision:
    return Decision(
        tensor.name,
        tensor.kind,
        verdict.action,
        verdict.rule,
        verdict.mechanism,
        tensor.aliases,
        tensor.elements,
        tensor.nbytes,
        tensor.shape,
        tensor.dtype,
        verdict.frozen_rows,
        verdict.trainable_rows,
        verdict.intervals,
        tensor.persistent,
    )


def _require_training(policy: Policy, decisions: tuple[Decision, ...]) -> None:
    if not policy.enforce:  # an audit only declares: everything trains
        return
    if any(d.kind == "parameter" and (d.action != "freeze" or d.scheduled) for d in decisions):
        return
    count = sum(d.kind == "parameter" for d in decisions)
    problem = f"all {count} parameters are frozen for the whole run" if count else "the model has no parameters"
    raise PolicyError(f"nothing is left to train: {problem}", param="freeze_policy")


def _warnings(policy: Policy, decisions: tuple[Decision, ...]) -> tuple[str, ...]:
    warnings = []
    if all(d.action == "train" for d in decisions):
        warnings.append("everything trains: nothing is frozen, so the evidence will claim nothing")
    if not policy.enforce:
        warnings.append("audit: the policy is declared and not enforced, so frozen tensors may move")
    return tuple(warnings)


def _where(policy: Policy, verdict: _Verdict) -> str:
    return next((rule.at for rule in policy.rules if rule.id == verdict.rule), "freeze_policy")


def _described(verdict: _Verdict) -> str:
    by = "the default" if verdict.rule == "default" else f"rule '{verdict.rule}'"
    if verdict.action == "train":
        return f"{by} trains it"
    if verdict.action == "split":
        return f"{by} splits its rows"
    steps = ", ".join(f"{a} to {'the end' if b is None else b}" for a, b in verdict.intervals)
    return f"{by} freezes it by {verdict.mechanism}" + ("" if verdict.intervals == WHOLE_RUN else f" in steps {steps}")


def _and(words: Sequence[str]) -> str:
    quoted = [f"'{word}'" for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f" and {quoted[-1]}"


MAX_CANDIDATES = 2_000  # difflib compares a few thousand names in a few tens of milliseconds


def _no_match(index: _Index, key: str, pattern: str) -> str:
    """Why nothing matched, and the nearest real names."""
    noun = {"name": "tensor has the name", "regex": "tensor's whole name matches the regex"}
    noun |= {"module": "module has the path", "module_type": "tensor is inside a module of type"}
    hint = ""
    if key == "name" and "*" not in pattern and index.under(pattern):
        return f"'{pattern}' is a module, not a tensor; write '{pattern}.**' for all that is in it"
    if key != "regex" and any(character in pattern for character in "?[{"):
        hint = " (only '*' and '**' are wildcards)"
    return f"no {noun[key]} '{pattern}'{hint}{_nearest(pattern, _candidates(index, key, pattern))}"


def _no_layers(index: _Index, path: str) -> str:
    lists = sorted({m.rpartition(".")[0] for m in index.modules if m.rpartition(".")[2].isdigit()} - {""})
    what = "has no numbered layers" if index.under(path) else "is no module"
    return f"'{path}' {what}{_nearest(path, lists)}"


def _candidates(index: _Index, key: str, pattern: str) -> list[str]:
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
    close = difflib.get_close_matches(text, candidates, n=3, cutoff=0.5)
    if close:
        return f"; nearest: {_and(close)}"
    return f"; there are {_and(candidates[:3])} and others" if candidates else ""
