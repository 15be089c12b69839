"""The linear-time regular expressions, against Python's own."""

import re
import warnings

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.freeze import regex
from app.freeze.regex import compile_regex

atoms = st.sampled_from(
    ["a", "b", "1", r"\.", ".", "[ab]", "[^a]", r"\d", r"\w", r"[\d.]", "[]a]", r"[\]b]", "-", "{}"]
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    counts = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{,2}", "{1,3}", "*?", "{,}"])
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(" + "|".join(parts) + ")"),
        st.tuples(inner, counts).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        st.tuples(atoms.filter(lambda atom: atom != "{}"), counts).map("".join),
    )


patterns = st.recursive(atoms, grown, max_leaves=6)


@given(patterns, st.text("ab1.-{}", max_size=6))
def test_agrees_with_re(pattern, text):
    """Whatever can be written with the supported syntax has the same full matches as in `re`."""
    assume(len(pattern) <= regex.MAX_LENGTH)
    assert compile_regex(pattern)(text) == (re.compile(pattern, re.DOTALL).fullmatch(text) is not None)


@given(st.text("ab.|*+?()[]{}\\d^-,12$w", min_size=1, max_size=9), st.text("ab.12-|", max_size=6))
def test_agrees_with_re_on_any_text_that_it_accepts(pattern, text):
    """Even on patterns thrown together by chance: refused, or the same answer."""
    try:
        matches = compile_regex(pattern)
    except ValueError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert matches(text) == (re.compile(pattern, re.DOTALL).fullmatch(text) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a?a)*b", ".*.*.*.*.*.*b", "((a*)*)*b"])
def test_catastrophic_patterns_answer_at_once(pattern):
    """Patterns that make a backtracking matcher run for ever take one step per character."""
    assert not compile_regex(pattern)("a" * 5000)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a" * 201, "200 characters"),
        ("", "200 characters"),
        ("(a", "not a regex"),
        ("[[a]", "not a regex"),
        (r"(a)\1", "back-references"),
        ("(?=a)b", "look-around"),
        ("(?P<x>a)", "named groups"),
        ("(?i)a", "flags"),
        ("a++", "possessive"),
        (r"a\b", "anchors"),
        ("a^b", "whole name"),
        ("(a{200}){200}", "states"),
    ],
)
def test_refusals_say_why(pattern, why):
    """What needs backtracking, or has no meaning for a whole name, is refused with its reason."""
    with pytest.raises(ValueError, match=why):
        compile_regex(pattern)


def test_anchors_at_the_ends_are_allowed():
    """People write ^ and $ by habit, and the whole name must match anyway."""
    assert compile_regex(r"^layers\.\d+$")("layers.10")
    assert compile_regex(r"a\$")("a$")


def test_memory_is_bounded(monkeypatch):
    """Forgetting what is remembered changes no answer."""
    monkeypatch.setattr(regex, "MAX_REMEMBERED", 3)
    matches = compile_regex(".*a..b.*")
    for number in range(512):
        name = f"{number:09b}".replace("0", "a").replace("1", "b")
        assert matches(name) == (re.fullmatch(".*a..b.*", name) is not None)
