"""The tree that a trainer makes of its examples."""

from worker.trainer.data.examples_root import as_written, example_tree
from worker.trainer.data.sampler import Sampler

ROWS = [{"text": name, "label": at % 2} for at, name in enumerate("abcdea")]


def test_steps_are_those_of_the_sampler() -> None:
    """Every example once an epoch; the one that is there twice has the steps of both, of labels that are the same."""
    sampler = Sampler(len(ROWS), 2, seed=5)
    tree = example_tree(ROWS, sampler, steps=6, labels=("no", "yes"))
    assert len(tree.keys) == 6  # the label of the second "a" is another
    for step in range(1, 7):
        assert sum(step in steps for steps in tree.steps) == len(sampler.positions(step))
    same = [{"text": "a", "label": 0}] * 2
    assert sorted(example_tree(same, Sampler(2, 1, seed=1), steps=4, labels=("no",)).steps) == [(1, 2, 3, 4)]


def test_labels_are_as_the_file_has_them() -> None:
    """Of a class, of words, of a table; numbers of a regression stay what they are."""
    assert as_written({"text": "a", "label": 1}, ("no", "yes"))["label"] == "yes"
    assert as_written({"tokens": ["a"], "labels": [1, 0]}, ("O", "B"))["labels"] == ["B", "O"]
    assert as_written({"x": [1.0], "y": 0}, ("no", "yes"))["y"] == "no"
    assert as_written({"x": [1.0], "y": [0.5]}, None) == {"x": [1.0], "y": [0.5]}
