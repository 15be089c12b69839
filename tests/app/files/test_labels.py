"""Labels of a whole file: twins that differ by a space, and the map of a base that has its own."""

import pytest

from app.files.formats import validate
from app.files.labels import in_order, kept_map, lookalikes
from tests.app.files.training_files import lines


@pytest.mark.parametrize(
    ("labels", "own", "kept"),
    [
        (["good", "bad"], ("bad", "good", "so-so"), ("bad", "good", "so-so")),
        (["0", "1"], ("bad", "good"), ("bad", "good")),
        (["0", "1"], ("bad", "good", "so-so"), ("0", "1")),
        (["1", "2"], ("bad", "good"), ("1", "2")),
        (["new", "good"], ("bad", "good"), ("new", "good")),
        (["a", "b"], None, ("a", "b")),
        (["a", "b"], (), ("a", "b")),
    ],
)
def test_the_map_of_the_base_is_kept_where_it_fits(labels, own, kept):
    """By names, or where the labels are all of its indices."""
    assert kept_map(labels, own) == kept


def test_order():
    """Whole numbers by value, others by name."""
    assert in_order({"10": 1, "9": 1}) == ("9", "10")
    assert in_order({"b": 1, "a": 1, "10": 1}) == ("10", "a", "b")


def test_a_label_with_a_space_beside_the_same_without(put):
    """Both train, as two classes; whoever reads the warning knows why there is one more."""
    rows = [{"text": "a", "label": label} for label in ("bad", "bad ", "good", "bad", "bad ", "good", "good")]
    summary = validate(put(lines(*rows)), format="jsonl", task="text-classification")
    assert summary.warnings == (
        "the labels 'bad' (2 times) and 'bad ' (2 times) differ only by spaces around them, and are 2 classes",
    )
    assert len(list(lookalikes({"a": 1, "b": 1}))) == 0
