"""How transformers names the tensors of a file while it loads them: one table for each kind of model that it renames.

The tables are data: `renames.json` beside this module, written by `python -m tools.renames`.
"""

import json
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pkgutil import get_data
from typing import NamedTuple

FILE = "renames.json"


class Rename(NamedTuple):
    """One line of a table: where `pattern` is found in a name, `target` takes its place.

    `sign` is `->` where one stored tensor becomes one live tensor, and `=>` where several become one.
    """

    pattern: str
    sign: str
    target: str


Table = tuple[Rename, ...]  # applied in order, each line at most once


def parse_tables(text: str) -> tuple[Table, ...]:
    """The tables of a file as `render_tables` writes it."""
    return tuple(tuple(Rename(*line.split(" ")) for line in table) for table in json.loads(text)["tables"])


def render_tables(tables: Iterable[Table]) -> str:
    about = (
        "How transformers names the tensors of a file while it loads them. Written by `python -m tools.renames`; "
        "tables of older versions stay. A line is a pattern, a sign (-> for one tensor, => where several stored "
        "tensors become one) and the replacement."
    )
    lines = [[" ".join(rename) for rename in table] for table in tables]
    return json.dumps({"about": about, "tables": lines}, indent=1) + "\n"


@cache
def tables() -> tuple[Table, ...]:
    """The tables of `renames.json`, which most models do without."""
    # Not by a path of the file system: the verifier in one file reads it from its archive.
    return parse_tables((get_data(__package__, FILE) or b"").decode())


@lru_cache(maxsize=1 << 16)  # each name is looked up a few times
def renamed(name: str, table: Table, *, joined: bool) -> str:
    """The live name of the tensor that a file calls `name`.

    Without `joined` the parts of one live tensor keep names of their own.
    """
    for pattern, sign, target in table:
        if joined or sign == "->":
            name = re.sub(pattern, target, name, count=1)
    return name
