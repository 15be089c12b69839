"""The verifier's table of loading holds all that the installed transformers does."""

import json

import pytest

from tools.loaders import PATH, installed, merged, rendered


@pytest.mark.slow
def test_all_of_the_installed_version_is_there() -> None:
    """After a change of transformers: `python -m tools.loaders`."""
    pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    text = PATH.read_text("utf-8")
    assert rendered(merged(json.loads(text), installed())) == text


def test_what_an_earlier_version_did_stays() -> None:
    rule, newer = [["a"], ["b"], False, ["a"]], [["a"], ["c"], True, ["a"]]
    kind = {"prefixes": ["old"], "conversions": [[0]], "ties": [["x", "y"]], "tied": True, "layers": [], "parts": {}}
    kind |= {"shape": {"bias": False, "window": 2}, "derived": ["depth"], "grown": {"ops": ""}, "aliases": {}}
    kind |= {"making": {}, "extra": {}, "fixed": [], "inner": {}, "filled": [], "classes": ["Toy"], "choices": []}
    newer_kind = {
        "prefixes": ["new"],
        "ties": [],
        "tied": False,
        "layers": [[6, ["num_layers"]]],
        "parts": {"text": "toy"},
        "shape": {"bias": True, "depth": 1},
        "derived": ["window"],
        "classes": ["ToyModel"],
        "choices": [["ToyModel", "ToyBase"]],
    }
    before = {"rules": [rule], "kinds": {"toy": kind, "gone": kind}}
    after = {"rules": [newer], "kinds": {"toy": kind | newer_kind}}
    both = merged(before, after)
    assert both["rules"] == [rule, newer]
    assert both["kinds"]["gone"] == kind
    assert both["kinds"]["toy"] == {
        "prefixes": ["new", "old"],
        "conversions": [[0], [1]],
        "ties": [["x", "y"]],
        "tied": True,
        "layers": [[6, ["num_layers"]]],
        "parts": {"text": "toy"},
        "shape": {"bias": True, "depth": 1},
        "derived": ["window"],
        "grown": {"ops": ""},
        "aliases": {},
        "making": {},
        "extra": {},
        "fixed": [],
        "inner": {},
        "filled": [],
        "classes": ["Toy", "ToyModel"],
        "choices": [["ToyModel", "ToyBase"]],
    }
