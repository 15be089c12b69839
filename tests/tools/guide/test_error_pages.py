"""What the error pages say is so: complete, one page a code, and settings that there are."""

import re
from pathlib import Path

import pytest

from app.settings import Settings
from tools.guide.error_pages import WORDS, error_words, index, page


def test_a_page_says_what_why_and_what_to_do() -> None:
    """For each code, in sentences; the index lists it where it is met."""
    words = error_words()
    assert len(words) > 100
    for each in words:
        text = page(each)
        assert text.startswith(f"# `{each.code}`\n")
        assert all(part.endswith((".", "?")) and len(part) > 5 for part in (each.meaning, each.cause, each.remedy)), (
            each
        )
        assert f"[`{each.code}`]({each.code}.md)" in index(words)


def test_settings_that_are_named_are_there() -> None:
    settings = {f"PERMAFROST_{name.upper()}" for name in Settings.model_fields} | {"PERMAFROST_API_KEY"}
    assert set(re.findall(r"PERMAFROST_\w+", WORDS.read_text("utf-8"))) <= settings


def test_a_code_in_two_sections_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "errors.toml"
    file.write_text('[request]\na_b = ["x", "y", "z"]\n[job]\na_b = ["x", "y", "z"]\n')
    with pytest.raises(ValueError, match="has a_b twice"):
        error_words(file)
