"""Freeze policies: ordered rules over the tensors of a model, of which the first match decides.

`Policy.from_json` accepts what users write (shorthands, single strings for lists) and refuses everything else with the
path of the wrong part.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.errors import PolicyError
from app.freeze import fields
from app.freeze.glob import check_glob
from app.freeze.presets import PRESETS
from app.jsontypes import JsonDict

ACTIONS = ("freeze", "train")
MECHANISMS = ("requires_grad", "detach", "param_group")
KINDS = ("parameter", "buffer")
PARTS = ("vision_tower", "projector", "language_model", "text_tower")
BUFFERS = ("pin", "track")
ON_VIOLATION = ("abort", "continue")
Intervals = tuple[tuple[int, int | None], ...]  # optimizer steps (a, b]; b None means to the end
WHOLE_RUN: Intervals = ((0, None),)

MAX_RULES = 1_000


@dataclass(frozen=True, slots=True)
class Layers:
    """Some of the integer children of the module `path`: the first n, the last n, or start <= number < stop."""

    path: str
    first: int | None = None
    last: int | None = None
    start: int | None = None
    stop: int | None = None

    def to_json(self) -> JsonDict:
        parts = {"path": self.path, "first": self.first, "last": self.last, "from": self.start, "to": self.stop}
        return {key: value for key, value in parts.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Select:
    """The tensors of a rule. Selectors that are given together must all match; of a list any may match."""

    name: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    module: tuple[str, ...] = ()
    module_type: tuple[str, ...] = ()
    layers: Layers | None = None
    kind: str | None = None
    rows: tuple[tuple[int, int], ...] = ()
    part: tuple[str, ...] = ()  # of a vision-language model; names once a plan is made

    def to_json(self) -> JsonDict:
        parts: JsonDict = {
            "name": list(self.name),
            "regex": list(self.regex),
            "module": list(self.module),
            "module_type": list(self.module_type),
            "layers": self.layers.to_json() if self.layers else None,
            "kind": self.kind,
            "rows": [list(bounds) for bounds in self.rows],
            "part": list(self.part),
        }
        return {key: value for key, value in parts.items() if value}


@dataclass(frozen=True, slots=True)
class Expect:
    """The number of tensors and elements that the author of a rule expects it to decide."""

    tensors: int | None = None
    elements: int | None = None

    def to_json(self) -> dict[str, int]:
        parts = {"tensors": self.tensors, "elements": self.elements}
        return {key: value for key, value in parts.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Rule:
    """One decision: `when` holds the step intervals of a scheduled freeze and is empty for the whole run."""

    id: str
    action: str
    select: Select
    mechanism: str | None = None  # None for a rule that trains
    expect: Expect | None = None
    when: Intervals = ()
    at: str = field(default="freeze_policy.rules", compare=False)  # where it stood in the request, for errors

    @property
    def intervals(self) -> Intervals:
        """The optimizer steps (a, b] during which the rule freezes; b None means to the end."""
        if self.action == "train":
            return ()
        return self.when or WHOLE_RUN

    def select_at(self, key: str = "") -> str:
        """The path of a selector in the request: a shorthand is its own selector."""
        if not self.at.endswith("]"):
            return self.at
        return f"{self.at}.select.{key}" if key else f"{self.at}.select"

    def to_json(self) -> JsonDict:
        out: JsonDict = {"id": self.id, "action": self.action}
        if self.mechanism:
            out["mechanism"] = self.mechanism
        out["select"] = self.select.to_json()
        if self.expect:
            out["expect"] = self.expect.to_json()
        if self.when:
            out["when"] = [{"from_step": start, "to_step": stop} for start, stop in self.when]
        return out


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in order, then `default`; `mechanism` is how the default freezes and what rules inherit."""

    default: str = "train"
    rules: tuple[Rule, ...] = ()
    mechanism: str = "requires_grad"
    buffers: str = "pin"
    on_violation: str = "abort"
    enforce: bool = True

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Policy":
        """Read a policy as users write it. PolicyError.param is the path of the part that is wrong."""
        return _read_policy(obj, "freeze_policy")

    def to_json(self) -> JsonDict:
        """The normal form: every default written out, every selector a list, no shorthand."""
        return {
            "default": self.default,
            "mechanism": self.mechanism,
            "rules": [rule.to_json() for rule in self.rules],
            "buffers": self.buffers,
            "on_violation": self.on_violation,
            "enforce": self.enforce,
        }

    def digest(self) -> str:
        """SHA-256 of the normal form as JSON with sorted keys and no spaces, in hex."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


_COMMON = ("mechanism", "buffers", "on_violation", "enforce")


def _read_policy(obj: Any, at: str) -> Policy:
    obj = fields.given(obj, at, ("default", "rules", "preset", *ACTIONS, *_COMMON))
    mechanism = fields.choice(obj.get("mechanism", "requires_grad"), f"{at}.mechanism", MECHANISMS)
    enforce = fields.boolean(obj.get("enforce", True), f"{at}.enforce")
    shorthands = [key for key in ACTIONS if key in obj]
    if "preset" in obj:
        default, rules = _of_preset(obj, at, shorthands, mechanism)
    elif shorthands:
        default, rules = _shorthand(obj, at, shorthands, mechanism)
    else:
        default = fields.choice(obj.get("default", "train"), f"{at}.default", ACTIONS)
        rules = _read_rules(obj.get("rules", []), f"{at}.rules", mechanism)
    return Policy(
        default=default,
        rules=rules,
        mechanism=mechanism,
        buffers=fields.choice(obj.get("buffers", "pin"), f"{at}.buffers", BUFFERS),
        # An audit declares without enforcing: stopping at the first movement would defeat it.
        on_violation=fields.choice(
            obj.get("on_violation", "abort" if enforce else "continue"), f"{at}.on_violation", ON_VIOLATION
        ),
        enforce=enforce,
    )


def _shorthand(obj: Any, at: str, keys: list[str], mechanism: str) -> tuple[str, tuple[Rule, ...]]:
    """`{"freeze": [...]}` trains the rest; `{"train": [...]}` freezes the rest."""
    extra = [key for key in ("default", "rules") if key in obj]
    if len(keys) > 1 or extra:
        both = " and ".join(f"'{key}'" for key in keys + extra)
        raise PolicyError(f"{both} cannot be given together: the short form has one list; use 'rules'", param=at)
    action = keys[0]
    at = f"{at}.{action}"
    select = Select(name=fields.strings(obj[action], at, check_glob))
    rule = Rule("rule-1", action, select, mechanism if action == "freeze" else None, at=at)
    return ("train" if action == "freeze" else "freeze"), (rule,)


def _of_preset(obj: Any, at: str, shorthands: list[str], mechanism: str) -> tuple[str, tuple[Rule, ...]]:
    """`{"preset": "llava-stage-1"}` is a policy by name."""
    extra = [*shorthands, *(key for key in ("default", "rules") if key in obj)]
    if extra:
        raise PolicyError(f"'preset' and '{extra[0]}' cannot be given together: a preset is all of the rules", param=at)
    content = PRESETS[fields.choice(obj["preset"], f"{at}.preset", tuple(PRESETS))]
    rules = _read_rules(content["rules"], f"{at}.rules", mechanism)
    return content["default"], tuple(replace(rule, at=f"{at}.preset") for rule in rules)


def _read_rules(value: Any, at: str, mechanism: str) -> tuple[Rule, ...]:
    if not isinstance(value, list | tuple):
        raise PolicyError(f"must be a list of rules, not {fields.kind_of(value)}", param=at)
    if len(value) > MAX_RULES:
        raise PolicyError(f"{len(value)} rules; at most {MAX_RULES}", param=at)
    taken = {item["id"] for item in value if isinstance(item, Mapping) and isinstance(item.get("id"), str)}
    free = (name for name in map("rule-{}".format, itertools.count(1)) if name not in taken)
    rules = tuple(_read_rule(item, f"{at}[{i}]", free, mechanism) for i, item in enumerate(value))
    by_id: dict[str, Rule] = {}
    for rule in rules:
        if rule.id in by_id:
            raise PolicyError(f"the id '{rule.id}' is already that of {by_id[rule.id].at}", param=f"{rule.at}.id")
        by_id[rule.id] = rule
    return rules


def _read_rule(value: Any, at: str, free: Iterator[str], inherited: str) -> Rule:
    value = fields.given(value, at, ("id", "action", "mechanism", "select", "expect", "when"))
    for key in ("action", "select"):
        if key not in value:
            raise PolicyError(f"a rule needs '{key}'", param=f"{at}.{key}")
    action = fields.choice(value["action"], f"{at}.action", ACTIONS)
    select = _read_select(value["select"], f"{at}.select")
    for key in ("mechanism", "when"):
        if action == "train" and key in value:
            raise PolicyError(f"only a rule that freezes has '{key}'", param=f"{at}.{key}")
    when = _read_when(value["when"], f"{at}.when") if "when" in value else ()
    if when and select.rows:
        raise PolicyError(
            "a rule with 'rows' has no schedule: freeze the rows for the whole run, or schedule the whole tensor",
            param=f"{at}.when",
        )
    mechanism = fields.choice(value.get("mechanism", inherited), f"{at}.mechanism", MECHANISMS)
    return Rule(
        id=fields.identifier(value["id"] if "id" in value else next(free), f"{at}.id"),
        action=action,
        select=select,
        mechanism=mechanism if action == "freeze" else None,
        expect=_read_expect(value["expect"], f"{at}.expect") if "expect" in value else None,
        when=when,
        at=at,
    )


def _read_select(value: Any, at: str) -> Select:
    keys = ("name", "regex", "module", "module_type", "layers", "kind", "rows", "part")
    selectors = fields.given(value, at, keys)
    if not selectors:
        raise PolicyError(f"selects nothing: give at least one of {', '.join(keys)}", param=at)
    if "part" in selectors and "name" in selectors:
        raise PolicyError("'part' stands for names: give one of 'part' and 'name'", param=f"{at}.part")
    if set(selectors) == {"rows"}:
        raise PolicyError("'rows' says which rows, not which tensor: add 'name'", param=at)
    return Select(
        name=fields.strings(selectors["name"], f"{at}.name", check_glob) if "name" in selectors else (),
        regex=fields.strings(selectors["regex"], f"{at}.regex", _check_regex) if "regex" in selectors else (),
        module=fields.strings(selectors["module"], f"{at}.module", check_glob) if "module" in selectors else (),
        module_type=fields.strings(selectors["module_type"], f"{at}.module_type", check_glob)
        if "module_type" in selectors
        else (),
        layers=_read_layers(selectors["layers"], f"{at}.layers") if "layers" in selectors else None,
        kind=fields.choice(selectors["kind"], f"{at}.kind", KINDS) if "kind" in selectors else None,
        rows=_read_rows(selectors["rows"], f"{at}.rows") if "rows" in selectors else (),
        part=_read_parts(selectors["part"], f"{at}.part") if "part" in selectors else (),
    )


def _check_regex(pattern: str) -> None:
    from app.freeze.regex import compile_regex  # few policies have one, and a verifier starts without it

    compile_regex(pattern)


def _read_parts(value: Any, at: str) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else fields.entries(value, at)
    return tuple(dict.fromkeys(fields.choice(each, at, PARTS) for each in listed))


def _read_layers(value: Any, at: str) -> Layers:
    value = fields.given(value, at, ("path", "first", "last", "from", "to"))
    if "path" not in value:
        raise PolicyError("needs 'path', the module whose children are numbered", param=f"{at}.path")
    path = fields.string(value["path"], f"{at}.path", check_glob)
    if "*" in path:
        raise PolicyError("is one module's own path, without wildcards", param=f"{at}.path")
    bounds = set(value) - {"path"}
    if bounds not in ({"first"}, {"last"}, {"from"}, {"to"}, {"from", "to"}):
        raise PolicyError("needs 'first', or 'last', or 'from' and 'to' (one of the three)", param=at)
    least = {"first": 1, "last": 1, "from": 0, "to": 1}
    number = {key: fields.integer(value[key], f"{at}.{key}", least[key]) for key in bounds}
    if bounds == {"from", "to"} and number["from"] >= number["to"]:
        raise PolicyError(f"from {number['from']} to {number['to']} is empty ('to' is not included)", param=at)
    return Layers(path, number.get("first"), number.get("last"), number.get("from"), number.get("to"))


def _read_rows(value: Any, at: str) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of dimension 0, sorted; neighbours that touch become one."""
    ranges = sorted(_read_range(item, f"{at}[{i}]") for i, item in enumerate(fields.entries(value, at)))
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and start < merged[-1][1]:
            raise PolicyError(f"the ranges {list(merged[-1])} and {[start, stop]} overlap", param=at)
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return tuple(merged)


def _read_range(value: Any, at: str) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PolicyError("must be a pair [first row, row after the last]", param=at)
    start, stop = fields.integer(value[0], at, 0), fields.integer(value[1], at, 0)
    if start >= stop:
        raise PolicyError(f"[{start}, {stop}] holds no row (the second number is not included)", param=at)
    return start, stop


def _read_when(value: Any, at: str) -> Intervals:
    """Intervals of optimizer steps: frozen for every update with from_step < step <= to_step."""
    intervals = [_read_interval(item, f"{at}[{i}]") for i, item in enumerate(fields.entries(value, at))]
    for i, ((_, stop), (start, _)) in enumerate(itertools.pairwise(intervals), start=1):
        if stop is None or start < stop:
            raise PolicyError("begins before the one above it ends: sort them, without overlap", param=f"{at}[{i}]")
        if start == stop:
            raise PolicyError("begins where the one above it ends: join the two", param=f"{at}[{i}]")
    return tuple(intervals)


def _read_interval(value: Any, at: str) -> tuple[int, int | None]:
    fields.keys(value, at, ("from_step", "to_step"))
    start = fields.integer(value.get("from_step", 0), f"{at}.from_step", 0)
    if "to_step" not in value:
        raise PolicyError(
            "this schedule never ends: give 'to_step', or write null to mean the end of the run", param=f"{at}.to_step"
        )
    if value["to_step"] is None:
        if start == 0:
            raise PolicyError("this schedule never ends: leave 'when' out to freeze for the whole run", param=at)
        return start, None
    stop = fields.integer(value["to_step"], f"{at}.to_step", 0)
    if start >= stop:
        raise PolicyError(f"this schedule never begins: step {start} is not before step {stop}", param=at)
    return start, stop


def _read_expect(value: Any, at: str) -> Expect:
    value = fields.given(value, at, ("tensors", "elements"))
    given = {key: fields.integer(item, f"{at}.{key}", 1) for key, item in value.items()}
    if not given:
        raise PolicyError("expects nothing: give 'tensors', 'elements' or both", param=at)
    return Expect(**given)
