"""Which files of a model's folder are papers for readers."""

import pytest

from app.models.papers import is_paper, without_papers


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "LICENCE.txt", "license.md", "COPYING", "NOTICE"])
def test_papers_are_known_by_their_names(name: str) -> None:
    assert is_paper(name)


@pytest.mark.parametrize("name", ["readme", "LICENSE.json", "license.py", "config.json", "LICENSES", "a/LICENSE"])
def test_other_files_are_none(name: str) -> None:
    assert not is_paper(name)


def test_a_loader_reads_the_others() -> None:
    """The mark decides, and not the name: the card of a result is a file of the statement about it."""
    card, paper = {"name": "README.md"}, {"name": "README.md", "paper": True}
    assert without_papers([card, paper]) == [card]
