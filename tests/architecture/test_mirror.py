"""Every module has its tests at its own path: `app/x/y.py` at `tests/app/x/test_y.py`."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Modules whose tests are elsewhere, one a line. Nothing is ever added: give a new module its tests at its path.
ELSEWHERE = Path(__file__).with_name("tested_elsewhere.txt")
#: Declarations without logic of their own; what uses them is tested.
DECLARATIONS = {"__init__.py", "__main__.py", "tables.py", "schemas.py"}


def without_tests() -> set[str]:
    modules = (path.relative_to(ROOT) for room in ("app", "worker") for path in (ROOT / room).rglob("*.py"))
    logic = (path for path in modules if path.name not in DECLARATIONS and _has_functions(ROOT / path))
    return {str(path) for path in logic if not (ROOT / "tests" / path.parent / f"test_{path.name}").exists()}


def _has_functions(path: Path) -> bool:
    """Dataclasses and constants alone have no behaviour of their own."""
    tree = ast.parse(path.read_text("utf-8"))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for node in ast.walk(tree))


def test_new_modules_have_tests_at_their_paths() -> None:
    """A newcomer who edits a module finds its tests by its path."""
    assert sorted(without_tests() - set(ELSEWHERE.read_text("utf-8").split())) == []


def test_the_list_of_exceptions_only_shrinks() -> None:
    """A module that has its tests now, or is gone, leaves the list."""
    assert sorted(set(ELSEWHERE.read_text("utf-8").split()) - without_tests()) == []
