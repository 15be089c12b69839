"""Finds every error code that the service, its supervisor or a trainer can answer, in the sources themselves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Functions that take a code by position, and at which.
_BY_POSITION: Final = {"LineProblem": 2, "note": 1, "_refusal": 1, "_refused": 0}
_CODE: Final = re.compile(r"[a-z]+(_[a-z0-9]+)+|gone|conflict|diverged")
#: Verifier, diff and recipes have codes of another kind: digests, and names of checks.
_ELSEWHERE: Final = ("app/evidence/", "app/cli/", "worker/trainer/training/prefix_address.py")


def error_codes(root: Path) -> set[str]:
    """The codes in `app` and `worker` below `root`, of errors and of lines of a file."""
    files = [file for folder in ("app", "worker") for file in (root / folder).rglob("*.py")]
    mine = [file for file in files if not _elsewhere(str(file.relative_to(root)))]
    return {code for file in mine for code in codes_in(file.read_text("utf-8"))}


def codes_in(source: str) -> set[str]:
    """Those that a module gives as `code`: to an error, in a class, in a dict, or in a table of codes by status."""
    given = (text for node in ast.walk(ast.parse(source)) for value in _given(node) for text in _texts(value))
    return {text for text in given if _CODE.fullmatch(text)}


def _elsewhere(path: str) -> bool:
    return path.startswith(_ELSEWHERE) and not path.endswith("routes.py")


def _given(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a code at this node; `later` is the code of an error that another attempt may not have."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            yield from (keyword.value for keyword in node.keywords if keyword.arg in ("code", "later"))
            at = _BY_POSITION.get(name)
            yield from node.args[at : at + 1] if at is not None else ()
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            yield from (value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "code")
        case ast.ClassDef():
            yield from (value for each in node.body if (value := _assigned(each)) is not None)
        case ast.Assign() | ast.AnnAssign():
            value = _assigned(node)
            yield from [value] if value is not None else []


def _assigned(node: ast.stmt) -> ast.expr | None:
    """What `code`, `CODE` or a table of codes is set to."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    named = isinstance(target, ast.Name) and target.id in ("code", "CODE", "_CODES", "_FRAMEWORK_ERRORS")
    return node.value if named and isinstance(node, ast.Assign | ast.AnnAssign) else None


def _texts(value: ast.expr) -> Iterator[str]:
    """The strings of an expression that may become the code: of a choice, of a default, of a table's values."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from (text for each in (value.body, value.orelse) for text in _texts(each))
        case ast.BoolOp():
            yield from (text for each in value.values for text in _texts(each))
        case ast.Dict():
            yield from (text for each in value.values for text in _texts(each))
        case ast.Tuple(elts=[first, *_]):
            yield from _texts(first)
        case ast.Call(args=[argument]):
            yield from _texts(argument)
