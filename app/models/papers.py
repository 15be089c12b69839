"""The papers in a model's folder: README and licence, which are for readers and for bills of materials."""

import re
from collections.abc import Iterable
from typing import Final

from app.jsontypes import JsonDict

README: Final = "README.md"
#: Marks a paper among a base's files.
PAPER: Final = "paper"
_LICENCE: Final = re.compile(r"(licen[cs]e|copying|notice)(\.(md|txt))?", re.IGNORECASE)


def is_paper(name: str) -> bool:
    """README.md, LICENSE, NOTICE.txt and the like."""
    return name == README or is_licence(name)


def is_licence(name: str) -> bool:
    """LICENSE, LICENCE.txt, COPYING.md, NOTICE and the like."""
    return _LICENCE.fullmatch(name) is not None


def without_papers(files: Iterable[JsonDict]) -> list[JsonDict]:
    """The files of a model that a loader reads, which statements are about."""
    return [file for file in files if not file.get(PAPER)]
