"""The command line of `permafrost verify`."""

import math
import re
from pathlib import Path

import pytest

from app.evidence.verifier.options import read_options


def test_help_shows_options_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """A reader finds what to trust apart from what to check."""
    with pytest.raises(SystemExit) as ended:
        read_options(["--help"])
    assert ended.value.code == 0

    text = capsys.readouterr().out
    titles = re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE)
    assert titles[-3:] == ["result and base", "whom to trust", "what else the statement must have"]


def test_files_may_be_repeated() -> None:
    options = read_options(["a.json", "--key", "k", "--result", "r", "--log-key", "one", "--log-key", "two"])
    assert options.log_key == [Path("one"), Path("two")]
    assert options.whole_up_to is None and options.level == 1


def test_digests_of_whole_files_are_all_or_none() -> None:
    given = ["a.json", "--key", "k", "--result", "r"]
    assert read_options([*given, "--whole"]).whole_up_to == math.inf
    assert read_options([*given, "--quick"]).whole_up_to == 0
    with pytest.raises(SystemExit) as ended:
        read_options([*given, "--whole", "--quick"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["a.json", "--result", "r"], "required: --key"),
        (["a.json", "--key", "k"], "required: --result"),
        (["a.json", "--key", "k", "--result", "r", "--base-root", "12"], "64 hexadecimal digits"),
    ],
    ids=["no key", "no result", "a short root"],
)
def test_what_is_missing_is_named(given: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(given)
    assert ended.value.code == 2 and named in capsys.readouterr().err
