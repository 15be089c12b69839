"""Prints the answers of commands: tables for people, JSON for programs."""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="Write here; default: standard output.")
]
#: Columns of a table of rich that is written to a pipe or a file: nothing is cut, so that grep finds it.
WIDE: Final = 240
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def print_json(value: Any) -> None:
    """One document, indented; what it says is on standard output alone."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under capital headings, as `kubectl` and `docker` print them."""
    # Not rich: it cuts what is wider than the terminal, and takes `:x:` in an id for the name of a picture.
    table = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(seconds: int) -> str:
    """How long ago a Unix time was: `12s`, `5m`, `3h`, `2d`."""
    past = max(0, int(time.time()) - seconds)
    return next((f"{past // size}{unit}" for size, unit in _UNITS if past >= size), f"{past}s")


def size(count: int) -> str:
    """Bytes as `18 kB` or `1.3 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 99.95 else f"{value:.0f} {unit}"
