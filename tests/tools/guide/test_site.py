"""The built guide is whole: every page is in the navigation, every link of it leads somewhere, scripts are known."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tools.guide import site
from tools.guide.navigation import navigation

ROOT = Path(__file__).parents[3]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [each for name in ("href", "src") if (each := given.get(name))]
        self.ids |= {each for name in ("id", "name") if (each := given.get(name))}


def parsed(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text("utf-8"))
    return links


def test_every_link_leads_to_a_page_and_its_heading(built: Path) -> None:
    """Within the site; `/` is the service's own."""
    root = built / "site"
    pages = {page: parsed(page) for page in root.rglob("*.html")}
    dead = []
    for page, links in pages.items():
        for link in links.found:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("/"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            heading = unquote(parts.fragment)
            if not target.exists() or (heading and target in pages and heading not in pages[target].ids):
                dead.append(f"{page.relative_to(root)}: {link}")
    assert [each for each in dead if not each.endswith("#__skip")] == [] and len(pages) > 90


def test_pages_load_nothing_from_elsewhere(built: Path) -> None:
    """No script, style, picture or font of another host; and no address of the service from its root."""
    for page in (built / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"([^\"]+)\"", page.read_text("utf-8"))
        assert [each for each in loaded if re.match(r"https?:|//|/", each)] == [], page


def test_every_page_of_docs_is_in_the_navigation() -> None:
    """Tutorials come first; a page that no list names is a guide. Decisions have one entry."""
    sections = navigation(ROOT / "docs")
    assert [name for section in sections for name in section][:3] == ["Start", "Tutorials", "Guides"]
    named = set(re.findall(r"[\w/-]+\.md", str(sections)))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    pages -= {page for page in pages if re.match(r"decisions/\d", page)}
    assert pages - named == set()


def test_scripts_inside_a_page_are_found() -> None:
    """As a browser would run them: blocks of data and scripts by address are no inline scripts."""
    page = '<script>a && "</b>"</script><script src="x.js"></script><script type="application/json">{}</script>'
    assert site.inline_scripts(page + "<p>b</p><script type=module>c</script>") == ['a && "</b>"', "c"]
    assert site.digest("alert(1)") == "sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI="


def test_a_dead_link_ends_a_strict_build(tmp_path: Path) -> None:
    """With the generator's own words; tests build strictly."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# One\n\n[gone](gone.md)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\n')
    with pytest.raises(SystemExit, match=r"could not be built[\s\S]*page does not exist"):
        site.build(tmp_path, strict=True)
    site.build(tmp_path)  # `make setup` goes on; the tests do not
