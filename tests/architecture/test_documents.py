"""What the documents point at is there: links, headings, files, and every folder of the README's map."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Folders of the repository that hold code or documents.
FOLDERS = ("app", "worker", "migrations", "demo", "benchmarks", "tools", "tests", "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """To a file or folder of the repository, and to a heading of it where the link names one."""
    assert [target for target in links(page) if not leads_somewhere(page, target)] == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    """A missing file and a missing heading, so that an empty list means something."""
    (tmp_path / "there.md").write_text("# One: `two`\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md) [b](there.md#one-two) [c](gone.md) [d](there.md#three) [e](https://example.org)")
    assert [target for target in links(page) if not leads_somewhere(page, target)] == ["gone.md", "there.md#three"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_is_there(page: Path) -> None:
    """Paths in `code` that begin with a folder of ours; a changelog may speak of what was."""
    if page.name == "CHANGELOG.md":
        return
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)(?:::\w+)?`", page.read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_map_names_what_is_there() -> None:
    """Every module and folder in the README's map is below the folder that its line stands under."""
    missing = [f"{folder}/{name}" for folder, name in mapped() if not any((ROOT / folder).rglob(name))]
    assert missing == [] and len(mapped()) > 30


def test_the_map_names_every_folder() -> None:
    """Those of the repository, and the packages of app and worker."""
    names = set(mapped())
    packages = {
        (above, path.parent.name) for above in ("app", "worker") for path in (ROOT / above).glob("*/__init__.py")
    }
    assert packages - names == set()
    assert {each for each in FOLDERS if (".", each) not in names} == set()


def test_every_setting_is_documented() -> None:
    """By its variable's name without the prefix, in the table of settings."""
    table = (ROOT / "docs" / "operations.md").read_text("utf-8").partition("## Settings")[2].partition("\n## ")[0]
    assert [name for name in Settings.model_fields if f"`{name.upper()}`" not in table] == []


def test_the_way_through_the_code_can_be_followed() -> None:
    """Each of its lines names a file and a function that is in it."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    steps = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", page, flags=re.MULTILINE)
    missing = [(path, name) for path, name in steps if f"def {name}(" not in (ROOT / path).read_text("utf-8")]
    assert missing == [] and len(steps) > 15


def mapped() -> list[tuple[str, str]]:
    """(folder of its section, name) of each module and folder in the map; the sections themselves are in "."."""
    text = (ROOT / "README.md").read_text("utf-8").partition("## Map of the code")[2].split("```")[1]
    found, folder = [], "."
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            sections = re.match(r"\w+(?=/)", line)
            assert sections, line
            folder = sections[0]
            found += [(".", name) for name in re.findall(r"(?:^|\s{2,})(\w+)/(?=\s)", line)]
        else:
            found += [(folder, name.rstrip("/")) for name in re.findall(r"\b[a-z_]+(?:\.py|/)", line)]
    return found


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return [each for each in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", each)]


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, heading = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not heading or heading in headings(file))


def headings(page: Path) -> set[str]:
    """As the usual renderers make anchors of them."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}
