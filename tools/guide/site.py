"""Runs the generator, and hands its site over with the digests of its inline scripts."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

#: What the generator writes and nobody asks for: other looks, a map for search engines, a page for other servers' 404.
UNUSED = ("404.html", "sitemap.xml", "sitemap.xml.gz", "assets/stylesheets/classic", "assets/images/favicon.png")


def build(project: Path, *, strict: bool = False) -> None:
    """Writes `project/site`. With `strict` a dead link within the pages ends it, as every other warning does."""
    command = [sys.executable, "-m", "zensical", "build", *(["--strict"] if strict else [])]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (project / "site" / "index.html").exists():
        sys.exit(f"the guide could not be built:\n{done.stdout}{done.stderr}")


def publish(project: Path, built: Path) -> None:
    """Puts site and digests into `built`, in place of what is there."""
    site = project / "site"
    for name in UNUSED:
        path = site / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    pages = sorted(site.rglob("*.html"))
    scripts = sorted({digest(script) for page in pages for script in inline_scripts(page.read_text("utf-8"))})
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    (built / "scripts.json").write_text(json.dumps(scripts, indent=1) + "\n", "utf-8")
    shutil.move(site, built / "site")


def inline_scripts(page: str) -> list[str]:
    """The text of each script that a browser would run from the page itself; blocks of data are none."""
    parser = _Scripts()
    parser.feed(page)
    return parser.found


def digest(script: str) -> str:
    """As a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


class _Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        runs = given.get("type") in (None, "", "module", "text/javascript")
        self._inside = tag == "script" and "src" not in given and runs
        if self._inside:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False
