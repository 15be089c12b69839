"""Checks of the installation say what is wrong and what would work."""

import re
from pathlib import Path

from tests.app.cli.commands import Command


def test_doctor_says_what_is_missing_and_what_would_help(permafrost: Command) -> None:
    """A line per check; code 1 until the tables are there."""
    before = permafrost("doctor")
    assert before.returncode == 1
    assert re.search(r"FAIL {2}database: .*permafrost migrate", before.stdout)
    permafrost("migrate")
    after = permafrost("doctor")
    assert after.returncode == 0, after.stdout
    assert [line.split()[0] for line in after.stdout.splitlines()] == ["ok"] * 7


def test_doctor_reports_a_broker_that_is_away(permafrost: Command) -> None:
    """The other checks are made all the same."""
    done = permafrost("doctor", PERMAFROST_BROKER_URL="redis://127.0.0.1:1")
    assert re.search(r"FAIL {2}broker: redis://127.0.0.1:1: .*refused", done.stdout)
    assert len(done.stdout.splitlines()) == 7


def test_doctor_misses_a_models_folder_that_was_named(permafrost: Command, tmp_path: Path) -> None:
    """The default one is made when it is needed; one that was named and is not there is a mistake."""
    done = permafrost("doctor", PERMAFROST_MODELS_DIR=str(tmp_path / "none"))
    assert re.search(r"FAIL {2}models: .*none is not a folder", done.stdout)
