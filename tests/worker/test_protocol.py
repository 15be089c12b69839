"""The files through which supervisor and trainer talk."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.protocol import ProtocolError, Reporter, WorkOrder, Workspace, read_reports

ORDER = WorkOrder(job_id="ftjob-1", stage="train", model={"type": "torch", "architecture": "affine"}, seed=7)


def test_order_survives_the_disk(tmp_path: Path) -> None:
    """What is loaded equals what was saved."""
    ORDER.save(tmp_path)
    assert WorkOrder.load(tmp_path) == ORDER


@pytest.mark.parametrize(
    ("change", "says"),
    [({"colour": 1}, "colour"), ({"stage": "dance"}, "dance"), ({"model": ...}, "model")],
)
def test_order_refuses_what_it_does_not_know(change: dict[str, object], says: str) -> None:
    """Unknown fields, unknown stages and missing fields are named."""
    obj = {**ORDER.to_json(), **change}
    with pytest.raises(ProtocolError, match=says):
        WorkOrder.from_json({key: value for key, value in obj.items() if value is not ...})


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


def test_protocol_needs_no_torch() -> None:
    """The supervisor imports the protocol, so importing it brings in the standard library alone."""
    code = "import sys, worker.protocol; print({'torch', 'numpy', 'pydantic'} & set(sys.modules) or 'none')"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "none"
    )


def test_threads_share_a_reporter(tmp_path: Path) -> None:
    """Lines of several threads do not run into each other."""
    path = Workspace(tmp_path).reports
    with Reporter(path) as reporter, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: reporter.event("x" * 5000, number=at), range(200)))
    found, _ = read_reports(path, 0)
    assert sorted(each["data"]["number"] for each in found) == list(range(200))
