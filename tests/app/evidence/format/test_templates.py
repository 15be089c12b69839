"""Chat templates in files of their own: which names are theirs."""

from pathlib import Path

import pytest

from app.evidence.format.templates import FOLDER, MAX_TEMPLATES, is_template_file, templates_in


@pytest.mark.parametrize("name", ["tool_use.jinja", "rag-2.jinja", "v1.5.jinja"])
def test_templates(name: str) -> None:
    """As transformers writes them."""
    assert is_template_file(f"{FOLDER}/{name}")


@pytest.mark.parametrize("name", [".jinja", ".x.jinja", "x.py", "x.jinja.py", "a/x.jinja", "../x.jinja", "x.jinja\n"])
def test_other_names(name: str) -> None:
    """Hidden files, code, and paths elsewhere."""
    assert not is_template_file(f"{FOLDER}/{name}")
    assert not is_template_file(name)


def test_templates_of_a_folder(tmp_path: Path) -> None:
    """Files alone, and not without bound; a folder without templates has none."""
    assert templates_in(tmp_path) == []
    (tmp_path / FOLDER / "folder.jinja").mkdir(parents=True)
    for at in range(MAX_TEMPLATES + 1):
        (tmp_path / FOLDER / f"{at:03}.jinja").write_text("")
    (tmp_path / FOLDER / "run.py").write_text("")
    found = templates_in(tmp_path)
    assert len(found) == MAX_TEMPLATES and found[0] == f"{FOLDER}/000.jinja"
