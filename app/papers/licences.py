"""What a base's own papers say: its licence, and the compute that trained it, by its README or its LICENSE file."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.models.papers import README, is_licence

#: Bytes of a README that are looked at, and of its front matter.
MAX_README: Final = 1 << 20
MAX_FRONT_MATTER: Final = 64 << 10
#: The key in a README's front matter under which a publisher gives the floating-point operations of the training.
FLOPS: Final = "training_flops"

_FRONT_MATTER: Final = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)
#: Titles of licences whose files are known by their first words. Any other file is named by its digest.
_TITLES: Final = (
    (re.compile(r"\s*Apache License\s+Version 2\.0, January 2004\b"), "Apache-2.0"),
    (re.compile(r"\s*(The )?MIT License\b"), "MIT"),
)
_FIELD: Final = re.compile(r"([\w-]+):(?:[ \t]+(.*?))?[ \t]*", re.ASCII)
_ITEM: Final = re.compile(r"[ \t]*-[ \t]+(.*?)[ \t]*")
_NOT_PLAIN: Final = tuple("[]{}&*!|>%@`,\"'")
_LONGEST: Final = 200  # characters of a name or a link that is passed on


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as its publisher declares it. `spdx` is its id or expression in SPDX's list; None where it has none."""

    name: str
    spdx: str | None
    source: str  # the file that says so
    link: str | None = None


@dataclass(frozen=True, slots=True)
class PublishersWord:
    """What the publisher of a base says in its folder."""

    licence: Licence | None = None
    flops: int | None = None


def publishers_word(texts: Mapping[str, tuple[str, str]]) -> PublishersWord:
    """What README.md and licence files say. `texts`: text and SHA-256 by name; other files are passed over."""
    matter = front_matter(texts[README][0]) if README in texts else {}
    licence = _declared(matter)
    files = sorted(name for name in texts if is_licence(name) and not name.lower().startswith("notice"))
    if licence is None and files:
        licence = _of_file(files[0], *texts[files[0]])
    return PublishersWord(licence, _flops(matter.get(FLOPS)))


def front_matter(readme: str) -> Mapping[str, str | list[str]]:
    """The texts, and lists of texts, that the YAML between lines `---` at the beginning of a README names.

    Only these are read, and no other YAML: it could name types, or repeat itself to any size.
    """
    match = _FRONT_MATTER.match(readme)
    if match is None or len(match[1]) > MAX_FRONT_MATTER:
        return {}
    found: dict[str, str | list[str]] = {}
    items: list[str] = []  # of the list that the last key may have below it
    for line in match[1].splitlines():
        if item := _ITEM.fullmatch(line):
            items.append(_plain(item[1]))
        elif field := _FIELD.fullmatch(line):
            key, text = field[1], field[2] or ""
            items = []
            flow = text.startswith("[") and text.endswith("]")
            found[key] = ([_plain(each) for each in text[1:-1].split(",")] if flow else _plain(text)) if text else items
    return found


def _declared(matter: Mapping[str, str | list[str]]) -> Licence | None:
    """By `license`, as model hubs define it: an id of a licence, several, or `other` with `license_name`."""
    said = matter.get("license", "")
    names = [each for each in (said if isinstance(said, list) else [said]) if each]
    if not names:
        return None
    link = _text(matter.get("license_link"))
    if [name.lower() for name in names] == ["other"]:
        return Licence(_text(matter.get("license_name")) or "other", None, README, link)
    ids = [_spdx(name) for name in names]
    spdx = " AND ".join(each for each in ids if each) if all(ids) else None
    return Licence(", ".join(names)[:_LONGEST], spdx, README, link)


def _of_file(name: str, text: str, sha256: str) -> Licence:
    known = next((spdx for title, spdx in _TITLES if title.match(text)), None)
    return Licence(known or f"{name} with the SHA-256 {sha256}", known, name)


def _spdx(name: str) -> str | None:
    """The id as SPDX's list writes it: hubs write it in small letters."""
    from cyclonedx.spdx import fixup_id

    return fixup_id(name)


def _plain(text: str) -> str:
    """A scalar without quotes; nothing for what is neither quoted nor plain, such as a mapping or an alias."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].strip()
    return "" if text[:1] in _NOT_PLAIN else text.partition(" #")[0].strip()


def _text(value: str | list[str] | None) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None


def _flops(value: str | list[str] | None) -> int | None:
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= 1 else None
