"""What a base's README and licence file say of its licence and of the compute that trained it."""

import pytest

from app.papers.licences import Licence, PublishersWord, front_matter, publishers_word


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", Licence("apache-2.0", "Apache-2.0", "README.md")),
        ("---\r\nlicense: [mit, cc-by-4.0]\r\n---\r\n", Licence("mit, cc-by-4.0", "MIT AND CC-BY-4.0", "README.md")),
        ("---\nlicense: llama3\n---\n", Licence("llama3", None, "README.md")),
        (
            "---\nlicense: other\nlicense_name: ours\nlicense_link: https://example.org/l\n---\n",
            Licence("ours", None, "README.md", "https://example.org/l"),
        ),
        ("# no front matter\nlicense: mit\n", None),
        ("---\nlicense: {a: b}\n---\n", None),
        (
            "---\nlicense:\n- mit\n  - cc-by-4.0 # both\nother: x\n---\n",
            Licence("mit, cc-by-4.0", "MIT AND CC-BY-4.0", "README.md"),
        ),
        ("---\nlicense: 'mit'\n---\n", Licence("mit", "MIT", "README.md")),
        ("---\nlicense: [unclosed\n---\n", None),
        ("---\nlicense:\n---\n", None),
        ("---\n- a\n- list\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("---\na: &a [x, x]\nlicense: *a\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system [true]\n---\n", None),
    ],
)
def test_a_readme_declares_a_licence(readme: str, licence: Licence | None) -> None:
    """As hubs define the field; what cannot be read says nothing, and runs nothing."""
    assert publishers_word({"README.md": (readme, "ab")}).licence == licence


def test_a_licence_file_speaks_where_the_readme_does_not() -> None:
    """By its title where it is a usual one, else by its digest; a NOTICE is no licence."""
    apache = "\n   Apache License\n   Version 2.0, January 2004\n"
    assert publishers_word({"LICENSE": (apache, "ab")}).licence == Licence("Apache-2.0", "Apache-2.0", "LICENSE")
    said = publishers_word({"LICENCE.md": ("Ours alone", "ab" * 32), "README.md": ("# x", "cd")}).licence
    assert said == Licence(f"LICENCE.md with the SHA-256 {'ab' * 32}", None, "LICENCE.md")
    assert publishers_word({"NOTICE": ("Copyright", "ab")}) == PublishersWord()
    both = publishers_word({"LICENSE": (apache, "ab"), "README.md": ("---\nlicense: mit\n---\n", "cd")}).licence
    assert both is not None and both.spdx == "MIT"


@pytest.mark.parametrize(
    ("value", "flops"),
    [
        ("1e21", 10**21),
        ("120", 120),
        ('"3.5e18"', 35 * 10**17),
        (".inf", None),
        ("-1", None),
        ("true", None),
        ("much", None),
        ("[1]", None),
        ("9e999", None),
    ],
)
def test_the_compute_of_a_base_is_its_publishers_word(value: str, flops: int | None) -> None:
    assert publishers_word({"README.md": (f"---\ntraining_flops: {value}\n---\n", "ab")}).flops == flops


def test_a_huge_front_matter_is_left_unread() -> None:
    assert front_matter("---\nlicense: mit\n" + "a: b\n" * 50_000 + "---\n") == {}
    assert front_matter("---\n" + "[" * 5_000 + "\n---\n") == {}
