"""Every line of the threat model names a test, and that test is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat-model.md"


def test_every_named_test_exists() -> None:
    """A measure whose test was renamed or removed is no measure any more."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text("utf-8"))
    missing = [f"{path}::{name}" for path, name in named if name not in _tests(ROOT / path)]
    assert missing == [] and len(named) > 30


def test_every_measure_names_a_test() -> None:
    """Rows of the tables of measures have one in their last column."""
    page = PAGE.read_text("utf-8").partition("## Measures")[2].partition("## Out of scope")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| measure")]
    assert [row for row in rows if not re.search(r"`tests/[^`]+` \|$", row)] == []


def _tests(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}
