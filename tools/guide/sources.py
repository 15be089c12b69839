"""Writes what the generator reads: the pages of docs/, those of the error codes, and its settings."""

import json
import shutil
from pathlib import Path

from app.jsontypes import JsonDict
from tools.guide import error_pages
from tools.guide.navigation import navigation

#: What the pages are written in: GitHub's Markdown. Lines of code get no links of their own: they would have no name.
EXTENSIONS: dict[str, JsonDict] = {
    "tables": {},
    "toc": {"permalink": True},
    "pymdownx.highlight": {"anchor_linenums": False, "pygments_lang_class": True},
    "pymdownx.superfences": {},
}


def write(root: Path, project: Path) -> None:
    """Lays out `project/docs` and `project/zensical.toml` from the repository at `root`."""
    docs = project / "docs"
    shutil.copytree(root / "docs", docs)
    shutil.copy(root / "app" / "pages" / "static" / "favicon.svg", docs / "images")
    shutil.copy(root / "app" / "guide" / "llms.txt", docs)
    shutil.copy(root / "tools" / "guide" / "guide.css", docs)
    error_pages.write(docs)
    _list_decisions(docs / "decisions")
    (project / "zensical.toml").write_text(_toml(docs), "utf-8")


def _list_decisions(folder: Path) -> None:
    """Adds a link to each decision to their first page: in a folder of files nobody misses that."""
    pages = sorted(page for page in folder.glob("*.md") if page.name != "README.md")
    titles = [(page.name, page.read_text("utf-8").partition("\n")[0].removeprefix("# ")) for page in pages]
    with (folder / "README.md").open("a", encoding="utf-8") as first:
        first.write("\n## All\n\n" + "".join(f"- [{name[:4]}: {title}]({name})\n" for name, title in titles))


def _toml(docs: Path) -> str:
    """The generator's settings. A value of TOML is written as JSON: the two agree on strings, lists and booleans."""
    project: JsonDict = {
        "site_name": "Permafrost",
        "site_description": "Fine-tuning jobs with signed evidence that frozen weights did not change",
        "docs_dir": "docs",
        "site_dir": "site",
        "use_directory_urls": True,
        "extra_css": ["guide.css"],
    }
    theme: JsonDict = {
        "font": False,  # fonts of the machine: nothing is loaded from elsewhere
        "favicon": "images/favicon.svg",
        "logo": "images/favicon.svg",
        "features": [
            "content.code.copy",
            "navigation.footer",
            "navigation.indexes",
            "navigation.prune",
            "search.highlight",
            "toc.follow",
        ],
    }
    lines = ["[project]", *_lines(project), f"nav = {_inline(navigation(docs))}"]
    lines += ["[project.theme]", *_lines(theme)]
    for scheme, other in (("default", "slate"), ("slate", "default")):
        preferred = "light" if scheme == "default" else "dark"
        lines += ["[[project.theme.palette]]", f'media = "(prefers-color-scheme: {preferred})"', f'scheme = "{scheme}"']
        name = "dark" if other == "slate" else "light"
        lines += [f'toggle.icon = "lucide/{"sun" if preferred == "light" else "moon"}"']
        lines += [f'toggle.name = "Switch to the {name} colours"']
    for name, options in EXTENSIONS.items():
        lines += [f"[project.markdown_extensions.{json.dumps(name)}]", *_lines(options)]
    # The logo leads back to the service's own pages.
    lines += ["[project.extra]", "generator = false", 'homepage = "/"']
    return "\n".join(lines) + "\n"


def _lines(values: JsonDict) -> list[str]:
    return [f"{name} = {_inline(value)}" for name, value in values.items()]


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)
