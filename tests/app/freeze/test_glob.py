"""Globs over dotted names, against a matcher that is too simple to be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.freeze.glob import check_glob, compile_glob, literal_end, literal_prefix


def reference(pattern: list[str], name: list[str]) -> bool:
    """Segment by segment, trying everything."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(reference(pattern[1:], name[count:]) for count in range(len(name) + 1))
    return bool(name) and in_segment(pattern[0], name[0]) and reference(pattern[1:], name[1:])


def in_segment(pattern: str, text: str) -> bool:
    """Character by character; a lone `*` is a whole segment and segments are never empty."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(in_segment(pattern[1:], text[count:]) for count in range(len(text) + 1))
    return bool(text) and text[0] == pattern[0] and in_segment(pattern[1:], text[1:])


segments = st.text("ab1", min_size=1, max_size=3)
names = st.lists(segments, min_size=1, max_size=6).map(".".join)
pieces = st.one_of(st.just("**"), st.just("*"), segments, st.text("ab*", min_size=1, max_size=5))
globs = st.lists(pieces.filter(lambda p: p == "**" or "**" not in p), min_size=1, max_size=6).map(".".join)


@given(globs, names)
def test_matches_what_the_reference_matches(pattern, name):
    """For any glob and any name, the compiled matcher and the reference agree."""
    assert compile_glob(pattern)(name) == reference(pattern.split("."), name.split("."))


@given(globs, names)
def test_a_match_begins_and_ends_with_the_literal_parts(pattern, name):
    """The prefix and the end by which a search is narrowed never hide a match."""
    prefix = literal_prefix(pattern)
    if compile_glob(pattern)(name):
        assert name.endswith(literal_end(pattern))
        assert not prefix or name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("layers.1", "layers.10", False),
        ("layers.1", "layers.1", True),
        ("layers.1", "layers.1.weight", False),
        ("layers.*.weight", "layers.1.weight", True),
        ("layers.*.weight", "layers.1.mlp.weight", False),
        ("layers.1*", "layers.10", True),
        ("layers.**", "layers.1.mlp.weight", True),
        ("layers.**", "layers_old.weight", False),
        ("**.weight", "weight", True),
        ("**.weight", "a.b.weight", True),
        ("**.weight", "a.b.g_weight", False),
        ("a.b", "a+b", False),
        ("a.(b|c)", "a.b", False),
        ("a+b*", "aab", False),
        ("a+b*", "a+b1", True),
        ("*a+", "1aa", False),
    ],
)
def test_means_whole_segments(pattern, name, matches):
    """No substring, no prefix, and nothing but the star is special."""
    assert compile_glob(pattern)(name) is matches


def test_many_stars_take_linear_time():
    """A pattern made to backtrack answers at once: this name would take a backtracking matcher for ever."""
    assert not compile_glob(".".join(["**.a"] * 60) + ".b")(".".join(["a"] * 400))
    assert not compile_glob("*a" * 100 + "b")("a" * 5000)


@pytest.mark.parametrize("pattern", ["", "a..b", ".a", "a.", "a**", "a.**b", "***", "x" * 501])
def test_refuses_what_is_no_glob(pattern):
    """A malformed pattern is refused instead of matching nothing."""
    with pytest.raises(ValueError, match=r"segment|stand alone|characters"):
        check_glob(pattern)
