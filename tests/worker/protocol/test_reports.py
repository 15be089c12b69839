"""Reports of a trainer, written, torn and read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.protocol.reports import Reporter, read_reports
from worker.protocol.workspace import Workspace


def test_reports_are_read_in_order_once(tmp_path: Path) -> None:
    """Reading goes on from the returned offset, and nothing comes twice."""
    path = Workspace(tmp_path).reports
    assert read_reports(path, 0) == ([], 0)
    with Reporter(path) as reporter:
        reporter.stage("loading")
        first, offset = read_reports(path, 0)
        reporter.event("hello\nworld", level="warn", line=3)
        second, offset = read_reports(path, offset)
    assert first == [{"type": "stage", "stage": "loading"}]
    assert second == [{"type": "event", "level": "warn", "message": "hello\nworld", "data": {"line": 3}}]
    assert read_reports(path, offset) == ([], offset)


@given(cut=st.integers(0, 80))
def test_torn_line_waits_for_its_end(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """However a file is cut, only whole lines are reported, and the rest follows once it is there."""
    path = tmp_path_factory.mktemp("torn") / "reports.jsonl"
    with Reporter(path) as reporter:
        for step in range(3):
            reporter.report("step", step=step)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    early, offset = read_reports(path, 0)
    path.write_bytes(whole)
    late, _ = read_reports(path, offset)
    assert [each["step"] for each in early + late] == [0, 1, 2]


def test_reporter_ends_a_torn_line_first(tmp_path: Path) -> None:
    """A new writer does not glue its first report to a dead writer's half line."""
    path = tmp_path / "reports.jsonl"
    path.write_bytes(b'{"type":"st')
    with Reporter(path) as reporter:
        reporter.stage("loading")
    reports, _ = read_reports(path)
    assert [each["type"] for each in reports] == ["event", "stage"]


def test_line_over_the_limit_does_not_block(tmp_path: Path) -> None:
    """A monstrous line turns into a warning; reading then goes on behind it."""
    path = tmp_path / "reports.jsonl"
    path.write_bytes(b"x" * 100 + b"\n" + b'{"type":"stage","stage":"training"}\n')
    reports, offset = [], 0
    for _ in range(10):
        more, offset = read_reports(path, offset, limit=64)
        reports += more
    assert reports[0]["level"] == "warn"
    assert reports[-1] == {"type": "stage", "stage": "training"}


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    """A NaN loss does not make the report unreadable."""
    path = tmp_path / "reports.jsonl"
    with Reporter(path) as reporter:
        reporter.report("step", loss=float("nan"), more=[float("inf"), 1.5])
    assert read_reports(path)[0] == [{"type": "step", "loss": None, "more": [None, 1.5]}]


def test_threads_share_a_reporter(tmp_path: Path) -> None:
    """Lines of several threads do not run into each other."""
    path = Workspace(tmp_path).reports
    with Reporter(path) as reporter, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: reporter.event("x" * 5000, number=at), range(200)))
    found, _ = read_reports(path, 0)
    assert sorted(each["data"]["number"] for each in found) == list(range(200))
