"""What a job says while its prefix's results are computed."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from worker.protocol import Reporter, read_reports
from worker.trainer.training.prefix_request import REPORT_SECONDS, Filling


def test_an_event_every_few_seconds(tmp_path: Path) -> None:
    """Often enough that the trainer does not count as hanging, and not for each batch."""
    request: Any = SimpleNamespace(parts={"training": range(10)})
    nothing: Any = None
    with Reporter(tmp_path / "reports.jsonl", aloud=False) as reporter:
        filling = Filling(request=request, prefix=nothing, results={}, reporter=reporter, stop=nothing)
        now = time.monotonic()
        assert filling.report("training", 2, now) == now
        assert filling.report("training", 4, now - 2 * REPORT_SECONDS) >= now
    reports, _ = read_reports(tmp_path / "reports.jsonl")
    assert [report["message"] for report in reports] == [
        "frozen prefix: 4 of 10 examples of the training data are computed"
    ]
