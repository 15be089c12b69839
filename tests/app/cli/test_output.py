"""How commands print."""

import time

import pytest

from app.cli.output import age, print_table, size


def test_sizes_and_ages_are_short() -> None:
    """As `docker` and `kubectl` write them."""
    now = int(time.time())
    assert [age(now - seconds) for seconds in (0, 61, 7_300, 200_000)] == ["0s", "1m", "2h", "2d"]
    assert [size(count) for count in (0, 999, 1_500, 123_456, 4_200_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "123 kB",
        "4.2 GB",
    ]


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """What users wrote is no markup, and a long name stays on its line."""
    print_table(("A", "B"), [("x" * 300, "[bold]y")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split() == ["x" * 300, "[bold]y"]
