"""Writes a page for each error code, and their index, from `errors.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WORDS: Final = Path(__file__).with_name("errors.toml")
_WHERE: Final = {
    "request": ("Answers to requests", "`error.code` of an answer whose status is 4xx or 5xx."),
    "line": ("Lines of a data file", "`code` of an entry in `error.errors`, beside the line and the field."),
    "job": ("Jobs that failed", "`error.code` of a job; some of them are also answers to a request."),
}


@dataclass(frozen=True)
class ErrorWords:
    """What is said of a code; `where` is a section of the file."""

    code: str
    where: str
    meaning: str
    cause: str
    remedy: str


def error_words(file: Path = WORDS) -> list[ErrorWords]:
    """All codes in order. ValueError where one is in two sections."""
    sections: dict[str, dict[str, tuple[str, str, str]]] = tomllib.loads(file.read_text("utf-8"))
    found = [ErrorWords(code, where, *words) for where, codes in sections.items() for code, words in codes.items()]
    codes = [each.code for each in found]
    if twice := {code for code in codes if codes.count(code) > 1}:
        raise ValueError(f"{file.name} has {', '.join(sorted(twice))} twice")
    return sorted(found, key=lambda each: each.code)


def write(docs: Path) -> None:
    """Writes `docs/errors/CODE.md` for each code, and `index.md`."""
    folder = docs / "errors"
    folder.mkdir()
    words = error_words()
    for each in words:
        (folder / f"{each.code}.md").write_text(page(each), "utf-8")
    (folder / "index.md").write_text(index(words), "utf-8")


def page(words: ErrorWords) -> str:
    title, place = _WHERE[words.where]
    return (
        f"# `{words.code}`\n\n{words.meaning}\n\n"
        f"**Where.** {title}: {place}\n\n"
        f"**Typical cause.** {words.cause}\n\n"
        f"**What to do.** {words.remedy}\n\n"
        "The message beside the code says what it was in your case. [All codes](index.md)\n"
    )


def index(words: list[ErrorWords]) -> str:
    text = "# Error codes\n\nEvery code that the service answers. [The API](../api.md) has the shape of an error.\n"
    for where, (title, place) in _WHERE.items():
        rows = [f"| [`{each.code}`]({each.code}.md) | {each.meaning} |" for each in words if each.where == where]
        text += "\n".join([f"\n## {title}\n\n{place}\n", "| code | meaning |", "|---|---|", *rows]) + "\n"
    return text
