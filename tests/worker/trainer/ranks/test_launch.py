"""One rank that is killed, fails or raises ends the others, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.trainer.ranks.leaky import trained
from worker.protocol import EXIT_FAILED, EXIT_SIGNALLED


def test_killed_rank_takes_the_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal from outside (out of memory on the host, say) is the exit code; the reports say whose it was."""
    done = trained(tmp_path, monkeypatch, "die")
    assert done.code == EXIT_SIGNALLED + 9
    assert any(each["message"] == "rank 1 of 2 was ended by signal 9" for each in done.of("event"))
    assert not done.of("failed")


def test_failure_of_one_rank_is_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rank 1 knows what is wrong, and says so; rank 0, who reports, does not wait for it for ever."""
    done = trained(tmp_path, monkeypatch, "refuse")
    assert done.code == EXIT_FAILED
    assert [(each["code"], each.get("rank")) for each in done.of("failed")] == [("one_alone", 1)]


def test_exception_on_one_rank_is_reported_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be raised again at every attempt, so the job fails at once; the log has the traceback."""
    done = trained(tmp_path, monkeypatch, "raise_error")
    assert (done.code, done.of("done")) == (EXIT_FAILED, [])
    assert [(each["code"], each.get("rank")) for each in done.of("failed")] == [("trainer_error", 1)]
    assert "AssertionError: a fault of one rank" in done.failure["message"]
