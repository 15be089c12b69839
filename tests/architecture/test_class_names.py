"""One word has one meaning: no class name is defined twice in the packages."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_class_name_is_defined_twice() -> None:
    """A reader who searches for a class by its name finds one."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in (path for room in ("app", "worker", "permafrost") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
