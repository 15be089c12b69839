"""The folder that `permafrost pack` writes: where its attestation, keys and result are, and that nothing else is there.

Needs the standard library only.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from app.evidence.verifier.context import CannotCheck, Problem, Rejected

ATTESTATION: Final = "attestation.json"
KEYS: Final = "keys.json"
RESULT: Final = "result"
README: Final = "README.md"
REPORT: Final = "report.html"
#: The bills of materials, by the name of their format.
BOMS: Final[Mapping[str, str]] = {"cyclonedx": "bom.cdx.json", "spdx": "bom.spdx.json"}
#: For readers: no verdict rests on them.
PAPERS: Final = (README, REPORT, *BOMS.values())

OWN_KEYS: Final = (
    "the keys are those of the folder, so the person who gave you the folder vouches for whose statement it is: "
    "give a key that you have from elsewhere (--key)"
)


class Packed(NamedTuple):
    """The parts of a packed folder that are checked."""

    attestation: Path
    keys: Path
    result: Path


def is_packed(path: Path) -> bool:
    return path.is_dir()


def attestation_in(path: Path) -> Path:
    """The attestation itself, where a packed folder is named in its place."""
    return path / ATTESTATION if is_packed(path) else path


def unpack(folder: Path) -> Packed:
    """The parts of a folder. CannotCheck where one is missing, Rejected for anything that does not belong there."""
    try:
        kinds = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in os.scandir(folder)}
    except OSError as error:
        raise CannotCheck(f"{folder}: {error.strerror}") from None
    if missing := [name for name in (ATTESTATION, RESULT) if name not in kinds]:
        raise CannotCheck(f"{folder} is not a folder of `permafrost pack`: it has no {' and no '.join(missing)}")
    if problems := [problem for name in sorted(kinds) if (problem := _stray(name, kinds[name]))]:
        raise Rejected(problems)
    return Packed(folder / ATTESTATION, folder / KEYS, folder / RESULT)


def _stray(name: str, mode: int) -> Problem | None:
    if name == RESULT:
        wrong = None if stat.S_ISDIR(mode) else "not a folder"
    elif name in (ATTESTATION, KEYS, *PAPERS):
        wrong = None if stat.S_ISREG(mode) else "not a plain file"
    else:
        wrong = "beside what was packed, where a reader may take it for a part of that; move it out of the folder"
    return Problem("packed_folder", wrong, name) if wrong else None
