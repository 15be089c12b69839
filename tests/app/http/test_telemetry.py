"""Log lines are JSON where no terminal reads them, and are never written to a stream that was closed."""

import io
import json
import sys

import pytest
import structlog

from app.http.telemetry import configure_logs


def test_a_line_is_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """With time, level and the traceback as text; to whatever standard error is at that moment."""
    configure_logs()
    first, second = io.StringIO(), io.StringIO()
    log = structlog.get_logger("test")
    monkeypatch.setattr(sys, "stderr", first)
    log.info("one", number=1)
    first.close()
    monkeypatch.setattr(sys, "stderr", second)
    try:
        raise ValueError("the reason")
    except ValueError:
        log.exception("two")
    line = json.loads(second.getvalue())
    assert (line["event"], line["level"]) == ("two", "error")
    assert "ValueError: the reason" in line["exception"] and line["timestamp"].endswith("Z")
