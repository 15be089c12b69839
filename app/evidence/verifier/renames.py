"""How transformers names the tensors of a file while it loads them: one table for each kind of model that it renames.

Each line of a table is tried once, in order; `=>` stands where several stored tensors become one.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from app.evidence.verifier.renames_table import TEXT


class Rename(NamedTuple):
    """Where `pattern` is found in a name, `target` takes its place."""

    pattern: str
    sign: str
    target: str


Table = tuple[Rename, ...]


def _tables(text: str) -> tuple[Table, ...]:
    blocks = (block.splitlines() for block in text.strip().split("\n\n"))
    return tuple(tuple(Rename(*line.split(" ")) for line in block) for block in blocks if block)


TABLES = _tables(TEXT)


@lru_cache(maxsize=1 << 16)  # asked for each name a few times
def renamed(name: str, table: Table, *, joined: bool) -> str:
    """The live name of what a file calls `name`; without `joined`, of parts of one tensor, each has a name still."""
    for pattern, sign, target in table:
        if joined or sign == "->":
            name = re.sub(pattern, target, name, count=1)
    return name
