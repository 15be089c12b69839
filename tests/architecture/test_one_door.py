"""Only the lifecycle moves a job: nothing else writes the columns by which workers and requesters agree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUEUE = ROOT / "app" / "jobs" / "queue"
DOORS = [QUEUE / "lifecycle.py", QUEUE / "moves.py"]
GUARDED = {"status", "desired", "attempt", "crashes", "lease_owner", "lease_until"}


def test_nothing_else_writes_a_jobs_status() -> None:
    """Neither by an attribute of a row called `job`, nor by an UPDATE of the table."""
    others = [path for folder in ("app", "worker") for path in (ROOT / folder).rglob("*.py") if path not in DOORS]
    found = [f"{path.relative_to(ROOT)}: {what}" for path in others for what in writes(path.read_text("utf-8"))]
    assert found == []


def test_the_door_is_where_it_is_written() -> None:
    """The search sees the one UPDATE, so that an empty list elsewhere means something."""
    assert list(writes((QUEUE / "moves.py").read_text("utf-8")))


def test_the_lifecycle_alone_makes_moves() -> None:
    """Its transactions decide; a move of somebody else's would be a second door."""
    files = [path for folder in ("app", "worker") for path in (ROOT / folder).rglob("*.py")]
    users = [path for path in files if re.search(r"queue\.moves\b|queue import .*\bmoves\b", path.read_text("utf-8"))]
    assert users == [DOORS[0]]


@pytest.mark.parametrize(
    "line",
    ["job.status = 'failed'", "update(Job).values(attempt=2)", "update(Job).where(x).values({'desired': 'run'})"],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    """A row's attribute, a column by its keyword, and a column by its name."""
    assert list(writes(line))


def writes(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {each for target in targets for each in ast.walk(target) if isinstance(each, ast.Attribute)}
            yield from (ast.unparse(each) for each in names if each.attr in GUARDED and _is_job(each.value))
        elif isinstance(node, ast.Call) and "update(Job)" in (text := ast.unparse(node)) and _columns(node) & GUARDED:
            yield text


def _is_job(value: ast.expr) -> bool:
    return isinstance(value, ast.Name | ast.Attribute) and ast.unparse(value).rpartition(".")[2] == "job"


def _columns(call: ast.Call) -> set[str]:
    named = {each.arg for each in call.keywords if each.arg}
    return named | {each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and each.value in GUARDED}
