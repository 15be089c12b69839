"""What a configuration class of transformers makes of the keys that a file gives it, such as a list of layers' types.

The statements are the class's own, as `loaders.json` has them. They are interpreted here and never executed: only
arithmetic, comparisons, lists and conditions are known, and there is a limit on how much is computed. What a statement
sets that is not understood is unknown, and so is all that follows from it.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NoReturn, NotRequired, TypedDict

MOST_STEPS = 500_000
MOST_ITEMS = 20_000  # of a list; a number of layers is never larger


# Names of layers' types that transformers 5 replaces while it reads a configuration.
OLD_TYPES = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}


class Making(TypedDict):
    """How a class makes keys: the statements of its `__post_init__`, and those of the classes that it extends."""

    steps: list[str]
    defaults: dict[str, Any]  # of the fields that the statements read
    aliases: NotRequired[dict[str, str]]  # other names of fields


class Unknown(Exception):
    """A value that cannot be computed here."""


def made_of(config: Mapping[str, Any], making: Making) -> dict[str, Any]:
    """The attributes of the class's object for this configuration; those that are unknown are left out."""
    maker = _Maker(config, making)
    maker.run(0)
    return {key: value for key, value in maker.made.items() if value is not _UNKNOWN}


_UNKNOWN = object()


def _unknown() -> NoReturn:
    raise Unknown


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: base**exponent if abs(base) <= MOST_ITEMS and 0 <= exponent <= 4 else _unknown(),
}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
}
_KINDS: dict[str, tuple[type, ...]] = {
    **{each.__name__: (each,) for each in (bool, dict, float, int, list, str)},
    "Sequence": (list, str),
    "tuple": (list,),  # a file has none
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{each.__name__: each for each in (all, any, bool, dict, float, int, len, list, max, min, str, sum)},
    "remap_legacy_layer_types": lambda types: [OLD_TYPES.get(each, each) for each in types],
    "set": list,
    "tuple": list,
    "enumerate": lambda items, start=0: [list(pair) for pair in enumerate(items, start)],
    "range": lambda *ends: list(_bounded(range(*ends))),
    "reversed": lambda items: list(reversed(items)),
    "zip": lambda *items: [list(each) for each in zip(*items, strict=False)],
}
_METHODS = {
    dict: ("get", "pop", "setdefault", "items", "keys", "values"),
    list: ("append",),
    str: ("split", "startswith", "endswith", "lower", "upper", "strip"),
}


def _bounded(value: Any) -> Any:
    """A value that is not too large to go on with."""
    if isinstance(value, range | list | str | dict) and len(value) > MOST_ITEMS:
        raise Unknown
    if isinstance(value, int) and abs(value) > 1 << 62:
        raise Unknown
    return value


class _Return(Exception):
    pass


_Collecting = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


class _Maker:
    """An object of the class while its statements run."""

    def __init__(self, config: Mapping[str, Any], making: Making) -> None:
        self._making, self._steps = making, 0
        fields = making["defaults"]
        self.made: dict[str, Any] = {key: deepcopy(config.get(key, default)) for key, default in fields.items()}
        self._rest: dict[str, Any] = {key: deepcopy(value) for key, value in config.items() if key not in fields}

    def run(self, at: int) -> None:
        """Runs one class's statements; after the last class, what is left of the configuration becomes attributes."""
        if at == len(self._making["steps"]):
            aliases = self._making.get("aliases", {})
            self.made.update((aliases.get(key, key), value) for key, value in self._rest.items())
            return
        names: dict[str, Any] = {"kwargs": self._rest}
        for statement in ast.parse(self._making["steps"][at]).body:
            if _is_super(statement):
                self.run(at + 1)
                continue
            try:
                self._do(statement, names)
            except _Return:
                return
            except Exception:  # noqa: BLE001 - any value may come from a file, so any operation may fail on it
                self._forget(statement, names)

    def _forget(self, statement: ast.stmt, names: dict[str, Any]) -> None:
        """Marks all that a statement sets as unknown."""
        for node in ast.walk(statement):
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=key):
                    if _is_set(node, statement):
                        self.made[key] = _UNKNOWN
                case ast.Name(id=name, ctx=ast.Store()):
                    names[name] = _UNKNOWN

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Unknown

    # Statements

    def _do(self, node: ast.stmt, names: dict[str, Any]) -> None:
        self._count()
        match node:
            case ast.Assign(targets=targets, value=value):
                found = self._value(value, names)
                for target in targets:
                    self._set(target, found, names)
            case ast.AugAssign(target=target, op=op, value=value):
                read = ast.copy_location(ast.BinOp(_loaded(target), op, value), node)
                self._set(target, self._value(read, names), names)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._set(target, self._value(value, names), names)
            case ast.If(test=test, body=body, orelse=other):
                self._block(body if self._value(test, names) else other, names)
            case ast.For(target=target, iter=items, body=body, orelse=[]):
                for item in self._items(items, names):
                    self._set(target, item, names)
                    self._block(body, names)
            case ast.Expr(value=value):
                self._value(value, names)
            case _:
                raise _Return if isinstance(node, ast.Return) else Unknown

    def _block(self, body: list[ast.stmt], names: dict[str, Any]) -> None:
        for statement in body:
            self._do(statement, names)

    def _set(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = value
            case ast.Attribute(value=ast.Name(id="self"), attr=key):
                self.made[self._making.get("aliases", {}).get(key, key)] = value
            case ast.Subscript(value=of, slice=at):
                self._value(of, names)[self._value(at, names)] = value
            case ast.Tuple(elts=targets):
                for each, item in zip(targets, value, strict=True):
                    self._set(each, item, names)
            case _:
                raise Unknown

    # Expressions

    def _value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        self._count()
        value = _bounded(self._computed(node, names))
        if value is _UNKNOWN:
            raise Unknown
        return value

    def _computed(self, node: ast.expr, names: dict[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names[name]
            case ast.Attribute(value=ast.Name(id="self"), attr=key):
                return self.made[self._making.get("aliases", {}).get(key, key)]
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return [self._value(each, names) for each in items]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                pairs = ((self._value(key, names), value) for key, value in zip(keys, values, strict=True) if key)
                return {key: self._value(value, names) for key, value in pairs}
            case ast.JoinedStr(values=parts):
                return "".join(str(self._value(part, names)) for part in _plain(parts))
            case ast.Call():
                return self._called(node, names)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._collected(node, names)
            case _:
                return self._operated(node, names)

    def _operated(self, node: ast.expr, names: dict[str, Any]) -> Any:
        match node:
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._value(body if self._value(test, names) else other, names)
            case ast.BoolOp(op=op, values=values):
                return self._any_or_all(values, names, stops=isinstance(op, ast.Or))
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(_BINARY[type(op)], self._value(left, names), self._value(right, names))
            case ast.UnaryOp(op=op, operand=operand):
                return _UNARY[type(op)](self._value(operand, names))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compared(left, ops, others, names)
            case ast.Subscript(value=of, slice=at):
                return self._value(of, names)[self._slice(at, names)]
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                names[name] = self._value(value, names)
                return names[name]
            case _:
                raise Unknown

    def _collected(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, names: dict[str, Any]
    ) -> Any:
        (over,) = node.generators
        if isinstance(node, ast.DictComp):
            return {self._value(node.key, each): self._value(node.value, each) for each in self._each(over, names)}
        return [self._value(node.elt, each) for each in self._each(over, names)]

    def _any_or_all(self, values: list[ast.expr], names: dict[str, Any], *, stops: bool) -> Any:
        found: Any = None
        for each in values:
            found = self._value(each, names)
            if bool(found) is stops:
                return found
        return found

    def _binary(self, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        if function is operator.mul:
            for items, count in ((left, right), (right, left)):
                if isinstance(items, list | str) and (not isinstance(count, int) or len(items) * count > MOST_ITEMS):
                    raise Unknown
        return function(left, right)

    def _compared(self, left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr], names: dict[str, Any]) -> bool:
        before = self._value(left, names)
        for op, other in zip(ops, others, strict=True):
            after = self._value(other, names)
            if not _COMPARED[type(op)](before, after):
                return False
            before = after
        return True

    def _slice(self, node: ast.expr, names: dict[str, Any]) -> Any:
        if not isinstance(node, ast.Slice):
            return self._value(node, names)
        return slice(*(end and self._value(end, names) for end in (node.lower, node.upper, node.step)))

    def _items(self, node: ast.expr, names: dict[str, Any]) -> Iterable[Any]:
        items = self._value(node, names)
        if not isinstance(items, list | str | dict):
            raise Unknown
        return list(items)

    def _each(self, over: ast.comprehension, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for item in self._items(over.iter, names):
            inner = dict(names)
            self._set(over.target, item, inner)
            if all(self._value(test, inner) for test in over.ifs):
                yield inner

    def _called(self, node: ast.Call, names: dict[str, Any]) -> Any:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger" | "warnings"))):
                return None
            case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr="ceil"), args=[number]):
                return math.ceil(self._value(number, names))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr="set_output_features_output_indices")):
                self._set_outputs(*(self._value(each.value, names) for each in node.keywords))
                return None
            case ast.Call(func=ast.Name(id="isinstance"), args=[of, kinds]):
                return isinstance(self._value(of, names), tuple(t for kind in _names_in(kinds) for t in _KINDS[kind]))
            case ast.Call(func=ast.Name(id="hasattr" | "getattr" as name), args=[ast.Name(id="self"), key, *default]):
                return self._attribute(name, self._value(key, names), default, names)
            case ast.Call(func=ast.Name(id="setattr"), args=[ast.Name(id="self"), key, value]):
                self.made[self._value(key, names)] = self._value(value, names)
                return None
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return _FUNCTIONS[name](*(self._value(each, names) for each in args))
            case ast.Call(func=ast.Attribute(value=of, attr=method), args=args, keywords=[]):
                value = self._value(of, names)
                known = next((each for kind, each in _METHODS.items() if isinstance(value, kind)), ())
                if method not in known:
                    raise Unknown
                found = getattr(value, method)(*(self._value(each, names) for each in args))
                return [list(each) if method == "items" else each for each in found] if method in _VIEWS else found
            case _:
                raise Unknown

    def _set_outputs(self, indices: list[int] | None, features: list[str] | None) -> None:
        """Sets the stages whose features a backbone gives, by their numbers or names: the last one by default."""
        stages = self.made["stage_names"]
        if features is None:
            features = [stages[-1] if indices is None else stages[at] for at in indices or [-1]]
        if indices is None:
            indices = [stages.index(name) for name in features]
        self.made |= {"out_features": features, "_out_features": features}
        self.made |= {"out_indices": indices, "_out_indices": indices}

    def _attribute(self, name: str, key: str, default: list[ast.expr], names: dict[str, Any]) -> Any:
        if name == "hasattr":
            raise Unknown  # the class has more attributes than the statements read
        return self.made[key] if key in self.made else self._value(default[0], names)


_VIEWS = ("items", "keys", "values")


def _names_in(node: ast.expr) -> Iterator[str]:
    for each in node.elts if isinstance(node, ast.Tuple) else [node]:
        yield each.id if isinstance(each, ast.Name) else ""


def _plain(parts: list[ast.expr]) -> Iterator[ast.expr]:
    """The expressions of a formatted text, without formats."""
    for part in parts:
        yield part.value if isinstance(part, ast.FormattedValue) else part


def _loaded(target: ast.expr) -> ast.expr:
    """What an augmented assignment reads before it writes."""
    return ast.parse(ast.unparse(target), mode="eval").body


def _is_super(statement: ast.stmt) -> bool:
    """A call of the method of the class that this one extends."""
    return isinstance(statement, ast.Expr | ast.Return) and "__post_init__(" in ast.unparse(statement)


def _is_set(node: ast.Attribute, statement: ast.stmt) -> bool:
    """Whether an attribute is set by a statement, or is a list or dictionary that one of its parts is set in."""
    if isinstance(node.ctx, ast.Store):
        return True
    for each in ast.walk(statement):
        match each:
            case ast.Subscript(value=of, ctx=ast.Store()) if of is node:
                return True
            case ast.Call(func=ast.Attribute(value=of)) if of is node:
                return True
    return False
