"""The statements by which a configuration's class makes keys of others, as the verifier interprets them."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cache
from textwrap import dedent
from types import NoneType
from typing import Any, TypeGuard


def making(config_class: Any, keys: Collection[str]) -> dict[str, Any] | None:
    """The statements by which a configuration sets the keys, for `derived.py`; None where it has none for them."""
    methods = [method.body for each in config_class.__mro__ if (method := _maker(each)) is not None]
    by_hand = _BY_HAND.get(config_class.model_type)
    fields, needed = getattr(config_class, "__dataclass_fields__", {}), set(keys)
    if not keys:
        return None
    methods += [ast.parse(f"{by_hand}\nsuper().__post_init__(**kwargs)").body] if by_hand else []
    before: set[str] = set()
    while before != needed:
        before = set(needed)
        kept = [[each for each in body if _matters(each, needed)] for body in methods]
        for statement in (each for body in kept for each in body):
            needed |= set(_names_in(statement)) - {"self"}
    defaults = {key: _default_of(fields[key]) for key in sorted(needed & fields.keys())}
    aliases = sorted(dict(config_class.attribute_map).items())
    found = {
        "steps": ["\n".join(map(ast.unparse, body)) for body in kept],
        "defaults": {
            key: json.loads(json.dumps(value)) if isinstance(value, _JSON) else None for key, value in defaults.items()
        },
        "aliases": {alias: own for alias, own in aliases if own in needed},
    }
    return found if found["defaults"] or any(map(_sets_any(keys), kept)) else None


def made_by(config_class: Any) -> list[ast.stmt]:
    return [each for of in config_class.__mro__ if (method := _maker(of)) is not None for each in method.body]


def _sets_any(keys: Collection[str]) -> Callable[[list[ast.stmt]], bool]:
    return lambda body: any(sets(statement, keys) for statement in body)


#: What a model's class, and not its configuration's, makes of keys.
_BY_HAND = {
    "falcon": "if self.num_ln_in_parallel_attn is None and self.new_decoder_architecture:\n"
    "    self.num_ln_in_parallel_attn = 2",
    "timm_backbone": "self.out_indices = kwargs.get('out_indices') or [-1]",
}

#: Kinds of values that a configuration's file can have.
_JSON = (bool, int, float, str, list, tuple, dict, NoneType)


@cache
def _maker(each: Any) -> ast.FunctionDef | None:
    """A class's own `__post_init__`, with the constants of its module and of the class in place of their names."""
    method = vars(each).get("__post_init__") if each.__module__.startswith("transformers.models") else None
    if method is None:
        return None
    tree = ast.parse(dedent(inspect.getsource(method))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    _Constants(each, method.__globals__).visit(tree)
    return ast.fix_missing_locations(tree)


class _Constants(ast.NodeTransformer):
    """Puts constants in place of the names of a module and of a class."""

    def __init__(self, of: Any, module: dict[str, Any]) -> None:
        self._fields, self._of, self._module = getattr(of, "__dataclass_fields__", {}), of, module

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return node if node.id in vars(builtins) else _constant(self._module.get(node.id), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        of_class = is_of_self(node) and node.attr not in self._fields
        value = getattr(self._of, node.attr, None) if of_class else None
        return self.generic_visit(node) if value is None else _constant(value, node)


def _constant(value: Any, node: ast.Name | ast.Attribute) -> ast.AST:
    """The value in place of its name; the name if it is no plain value, or is set here."""
    if isinstance(node.ctx, ast.Load) and isinstance(value, int | float | str | dict | list | tuple):
        with suppress(ValueError, SyntaxError):
            ast.literal_eval(repr(value))
            return ast.parse(repr(value), mode="eval").body
    return node


def _default_of(field: Any) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _matters(statement: ast.stmt, needed: Collection[str]) -> bool:
    return "__post_init__(" in ast.unparse(statement) or sets(statement, needed)


def sets(statement: ast.stmt, keys: Collection[str]) -> bool:
    """Whether a statement sets one of the names or attributes, or changes what is in it."""
    for node in ast.walk(statement):
        match node:
            case ast.Attribute(ctx=ast.Store(), attr=name) | ast.Name(ctx=ast.Store(), id=name):
                found = [name]
            case ast.Subscript(ctx=ast.Store(), value=of):
                found = list(_names_in(of)) + list(_names_in(node.slice))
            case ast.Call(func=ast.Attribute(value=of, attr="append" | "setdefault"), args=[first, *_]):
                found = list(_names_in(of)) + list(_names_in(first))
            case ast.Call(func=ast.Name(id="setattr"), args=[_, key, _]):
                found = list(_names_in(key))
            case ast.Call(func=ast.Attribute(attr=method)) if method == _OUTPUTS:
                found = ["out_features", "out_indices", "_out_features", "_out_indices"]
            case _:
                continue
        if (set(found) - {"kwargs"}).intersection(keys):
            return True
    return False


def _names_in(node: ast.AST) -> Iterator[str]:
    """Names, attributes of `self` and texts in an expression or a statement."""
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Constant(value=str(name)):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                yield "stage_names" if name == _OUTPUTS else name


#: The method of a backbone's configuration that chooses the stages whose features it gives.
_OUTPUTS = "set_output_features_output_indices"


def is_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
