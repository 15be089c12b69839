"""The list of commands: what each offers a program, and a shell."""

from collections.abc import Iterator
from typing import Any

import typer

from app.cli.commands import OWN_PARSER, make_app
from tests.app.cli.commands import Command

#: Those that run until they are stopped, and those whose standard output is the document itself.
WITHOUT_JSON = {"serve", "worker", "mcp", "bom", "files get", "base registry make"}


def test_every_command_prints_json_for_programs() -> None:
    """But for those that print a document, or nothing."""
    found = dict(leaves(typer.main.get_command(make_app())))
    plain = {name for name, command in found.items() if not any("--json" in each.opts for each in command.params)}
    assert plain == WITHOUT_JSON | OWN_PARSER.keys()


def test_help_is_short_as_elsewhere(permafrost: Command) -> None:
    """`-h` at every command and group, and `version` as a word."""
    for words in ((), ("jobs",), ("models", "list"), ("verify",)):
        assert "--help" in permafrost(*words, "-h").stdout
    assert permafrost("version").stdout == permafrost("--version").stdout


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it."""
    inside = getattr(command, "commands", None)
    if inside is None:
        yield " ".join(path), command
    for name, each in (inside or {}).items():
        yield from leaves(each, (*path, name))


def test_a_shell_completes_commands(permafrost: Command) -> None:
    """By the script that --show-completion prints for it; which shell started the tests does not matter."""
    shown = permafrost("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0 and "_PERMAFROST_COMPLETE" in shown.stdout
