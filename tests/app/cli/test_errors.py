"""Operator mistakes end a command with one sentence and exit code 1 or 2."""

import pytest

from tests.app.cli.commands import Command


def test_a_wrong_setting_is_a_sentence(permafrost: Command) -> None:
    """The variable by its name, and no traceback."""
    done = permafrost("migrate", PERMAFROST_PORT="no number")
    assert done.returncode == 1
    assert "PERMAFROST_PORT" in done.stderr
    assert "Traceback" not in done.stderr


AWAY = "postgresql://u:secret@127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("command", "variables", "wanted"),
    [
        (["submit", __file__, "--model", "affine"], {"PERMAFROST_PORT": "abc"}, "PERMAFROST_PORT"),
        (["migrate"], {"PERMAFROST_DATABASE_URL": "bogus://x"}, "write postgresql://"),
        (["serve", "--no-worker"], {"PERMAFROST_DATABASE_URL": AWAY}, "refused"),
        (["keys", "list"], {"PERMAFROST_DATA_DIR": "/etc/hostname"}, "must be a folder"),
        (["worker"], {"PERMAFROST_DEVICES": "tpu"}, "PERMAFROST_DEVICES=tpu"),
        (["worker"], {}, "no tables yet: run `permafrost migrate`"),
    ],
)
def test_what_an_operator_got_wrong_is_a_sentence(
    permafrost: Command, command: list[str], variables: dict[str, str], wanted: str
) -> None:
    """Code 1, what it was, and neither a traceback nor a password."""
    done = permafrost(*command, **variables)
    assert done.returncode == 1
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--model", "{bad"], "not JSON"),
        (["--model", "affine", "--policy", "bert.**"], """'{"freeze": ["bert.**"]}'"""),
        (["--model", "affine", "--policy", '{"freeze": ["a"], "freeze": ["b"]}'], "'freeze' is given twice"),
        (["--model", '{"path": "a", "path": "b"}'], "'path' is given twice"),
        (["--model", "affine", "--policy", "@none.json"], "none.json: No such file"),
        (["--model", "affine", "--server", "localhost:8000"], "such as http://127.0.0.1:8000"),
    ],
)
def test_a_wrong_option_is_named(permafrost: Command, options: list[str], wanted: str) -> None:
    """Code 2, as for every mistake on the command line."""
    done = permafrost("submit", __file__, *options)
    assert done.returncode == 2
    assert options[-2] in done.stderr
    assert wanted in done.stderr
