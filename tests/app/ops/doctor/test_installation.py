"""Checks of the installation say what is wrong and what would work."""

import re
from pathlib import Path

import pytest

from app.db import Database
from app.ops.doctor import installation
from app.secrets import queries
from app.secrets.schemas import SecretSet
from app.settings import Settings
from app.vault import Vault
from tests.app.cli.commands import Command
from worker.supervisor.process import landlock

#: Lines of the report: one for each check.
CHECKS = 10


def test_doctor_says_what_is_missing_and_what_would_help(permafrost: Command) -> None:
    """A line per check; code 1 until the tables are there."""
    before = permafrost("doctor")
    assert before.returncode == 1
    assert re.search(r"FAIL {2}database: .*permafrost migrate", before.stdout)
    permafrost("migrate")
    after = permafrost("doctor")
    assert after.returncode == 0, after.stdout
    words = [line.split()[0] for line in after.stdout.splitlines()]
    assert len(words) == CHECKS and set(words) <= {"ok", "note"}  # a note where the kernel has no sandbox


def test_doctor_reports_a_broker_that_is_away(permafrost: Command) -> None:
    """The other checks are made all the same."""
    done = permafrost("doctor", PERMAFROST_BROKER_URL="redis://127.0.0.1:1")
    assert re.search(r"FAIL {2}broker: redis://127.0.0.1:1: .*refused", done.stdout)
    assert len(done.stdout.splitlines()) == CHECKS


def test_doctor_misses_a_models_folder_that_was_named(permafrost: Command, tmp_path: Path) -> None:
    """The default one is made when it is needed; one that was named and is not there is a mistake."""
    done = permafrost("doctor", PERMAFROST_MODELS_DIR=str(tmp_path / "none"))
    assert re.search(r"FAIL {2}models: .*none is not a folder", done.stdout)


def test_doctor_tells_a_key_that_opens_no_secret(permafrost: Command, environment: dict[str, str]) -> None:
    """After a restore without keys: which file it is, and that it is another one."""
    permafrost("migrate")
    settings = Settings(data_dir=Path(environment["PERMAFROST_DATA_DIR"]))
    db, vault = Database(settings.database), Vault(settings.webhook_key_path)
    with db.write() as session:
        queries.put(session, vault, "default", SecretSet(name="hub", kind="hub", value="hf_canary"))
    db.close()
    assert re.search(r"ok {4}secrets: 1, all of which .*webhooks\.key opens", permafrost("doctor").stdout)
    settings.webhook_key_path.write_bytes(bytes(32))
    done = permafrost("doctor")
    assert done.returncode == 1 and re.search(r"FAIL {2}secrets: .*is not the key that encrypted", done.stdout)
    settings.webhook_key_path.unlink()
    assert re.search(r"FAIL {2}secrets: cannot read the key", permafrost("doctor").stdout)


def test_the_sandbox_of_this_machine_is_named(permafrost: Command) -> None:
    """Landlock and seccomp, as the worker's own modules find them; without one of them a note, and no failure."""
    done = permafrost("doctor")
    (line,) = [line for line in done.stdout.splitlines() if "  sandbox: " in line]
    assert line.startswith("ok  " if landlock.version() and installation.has_seccomp() else "note")
    assert "Landlock" in line and "seccomp" in line
    assert installation.landlock_version() == landlock.version()


@pytest.mark.parametrize(
    ("abi", "seccomp", "level", "words"),
    [
        (6, True, "ok", "ABI 6"),
        (0, True, "note", "read and write what this user can"),
        (6, False, "note", "use the network"),
    ],
)
def test_a_missing_part_of_the_sandbox_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abi: int, seccomp: bool, level: str, words: str
) -> None:
    """With what trainers can do without it."""
    monkeypatch.setattr(installation, "landlock_version", lambda: abi)
    monkeypatch.setattr(installation, "has_seccomp", lambda: seccomp)
    (check,) = [part for part in installation.checks(Settings(data_dir=tmp_path)) if part.name == "sandbox"]
    assert (check.level, words in check.detail) == (level, True)
