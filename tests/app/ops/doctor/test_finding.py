"""What a finding of the doctor prints, and when it makes the doctor fail."""

from app.ops.doctor.finding import Finding


def test_a_problem_is_open_until_it_is_repaired() -> None:
    """The line says what --repair would do, then what was done."""
    finding = Finding("orphan_blob", "sha256/aa", "3 bytes", "moved to quarantine", lambda: "moved to quarantine/aa")
    assert finding.open
    assert finding.to_text() == "FAIL  orphan_blob sha256/aa: 3 bytes (--repair: moved to quarantine)"
    finding.apply_repair()
    assert not finding.open
    assert finding.to_text() == "done  orphan_blob sha256/aa: 3 bytes (moved to quarantine/aa)"


def test_a_problem_without_a_repair_needs_an_operator() -> None:
    """It stays open, whatever is applied."""
    finding = Finding("lost_events", "ftjob-1", "has 1 event instead of 2")
    finding.apply_repair()
    assert finding.open and finding.to_text().endswith("(needs an operator)")


def test_a_note_is_never_open() -> None:
    """It is information."""
    finding = Finding("expired_file", "file-1", "expired", level="note")
    assert not finding.open
    assert finding.to_text() == "note  expired_file file-1: expired (nothing to do)"
    assert finding.to_json()["level"] == "note"
