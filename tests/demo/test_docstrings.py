"""The demo's corpus: what it promises of its examples holds on the interpreter at hand."""

import json

from demo.docstrings import HELD_OUT, MOST_CHARACTERS, as_lines, collect


def test_there_are_enough_examples_of_enough_classes() -> None:
    """At least 2,000 examples of at least 4 packages, a fifth of them held out."""
    corpus = collect()
    examples = len(corpus.training) + len(corpus.held_out)
    assert examples >= 2_000
    assert len(corpus.labels) >= 4
    assert len(corpus.held_out) == int(examples * HELD_OUT)


def test_no_text_is_there_twice() -> None:
    """Neither within a part, nor in both, nor under two labels; and none is longer than allowed."""
    corpus = collect()
    texts = [text for text, _ in corpus.training + corpus.held_out]
    assert len(texts) == len(set(texts))
    assert max(map(len, texts)) <= MOST_CHARACTERS


def test_every_class_is_in_both_parts() -> None:
    """A label that is only held out could not be learned; one that is only trained could not be tested."""
    corpus = collect()
    assert {label for _, label in corpus.training} == {label for _, label in corpus.held_out} == set(corpus.labels)


def test_the_same_seed_gives_the_same_corpus() -> None:
    """Two runs on one interpreter train on the same lines; another seed shuffles otherwise."""
    assert collect(seed=3) == collect(seed=3)
    assert collect(seed=3).training != collect(seed=4).training


def test_the_baseline_is_the_share_of_the_most_frequent_label() -> None:
    """Counted by hand on a small corpus: `a` leads in training and is half of what is held out."""
    corpus = collect()
    small = type(corpus)(["a", "b"], training=[("1", "a"), ("2", "a"), ("3", "b")], held_out=[("4", "a"), ("5", "b")])
    assert small.majority == 0.5


def test_lines_are_json_with_text_and_label() -> None:
    """The upload's format is one object a line, whatever the text holds."""
    lines = as_lines([('say "hi"\n', "email"), ("ü", "xml")]).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": 'say "hi"\n', "label": "email"},
        {"text": "ü", "label": "xml"},
    ]
