"""Manifests as workers write them: by task, with the marks of a head."""

from typing import Any

import pytest

from app.models import manifest

BODY = {"name": "bert.weight", "shape": [4, 4], "dtype": "F32"}
HEAD = {"name": "classifier.weight", "shape": [2, 4], "dtype": "F32", "initialised": True, "labels": True}
TAGS = {"name": "tags.weight", "shape": [2, 4], "dtype": "F32", "labels": True}
STORED: dict[str, Any] = {
    "": "text-classification",
    "text-classification": [BODY, HEAD],
    "text-regression": "text-classification",
    "text-ranking": "text-classification",
    "token-classification": [BODY, TAGS],
}


def shapes(task: str, **options: Any) -> dict[str, tuple[int, ...]]:
    found = manifest.for_task(STORED, task, **options)
    assert found is not None
    return {each.name: each.shape for each in found.tensors}


def test_each_task_has_its_tensors() -> None:
    """Without a task, the model's own; for one that the model has no head for, nothing."""
    assert shapes("")["classifier.weight"] == (2, 4)
    assert set(shapes("token-classification")) == {"bert.weight", "tags.weight"}
    assert manifest.for_task(STORED, "causal-lm") is None


def test_head_has_a_row_per_class() -> None:
    """As many as the model spec asks for; a regression and a ranking have one."""
    assert shapes("text-classification", num_labels=7) == {"bert.weight": (4, 4), "classifier.weight": (7, 4)}
    assert shapes("text-regression")["classifier.weight"] == (1, 4)
    assert shapes("text-ranking")["classifier.weight"] == (1, 4)


def test_a_base_that_was_read_before_there_were_rankings() -> None:
    """Its tensors for them are those of a regression; a base that has neither has none."""
    earlier = {name: rows for name, rows in STORED.items() if name != "text-ranking"}
    found = manifest.for_task(earlier, "text-ranking")
    assert found is not None and found.tensors[1].shape == (1, 4)
    assert manifest.for_task({"causal-lm": [BODY]}, "text-ranking") is None


def test_head_of_another_size_is_initialised() -> None:
    """Two tags are in the files, three are not."""
    for count, new in ((2, set()), (3, {"tags.weight"})):
        found = manifest.for_task(STORED, "token-classification", num_labels=count)
        assert found is not None
        assert found.initialised == new


def test_new_head_is_open_until_its_classes_are_counted() -> None:
    """The job's data may bring more classes than config.json names, unless the head is in the files already."""
    for task, count, is_open in (
        ("text-classification", None, True),
        ("text-classification", 2, False),
        ("text-regression", None, False),
        ("token-classification", None, False),
    ):
        found = manifest.for_task(STORED, task, num_labels=count)
        assert found is not None
        assert found.open_head is is_open, (task, count)


@pytest.mark.parametrize(
    "stored",
    [
        {"": "a", "a": "b", "b": "a"},
        {"": "missing"},
        {"": []},
        [],
        [{"name": "x"}],
        [{"name": "x", "shape": [2], "dtype": "F33"}],
        {"": [{"name": "x", "shape": ["2"], "dtype": "F32"}]},
        7,
    ],
    ids=repr,
)
def test_unsound_manifests_are_told(stored: Any) -> None:
    """A worker's child reads other people's models: what it writes is read once before anybody rests on it."""
    with pytest.raises((LookupError, TypeError, ValueError)):
        manifest.checked(stored)


def test_recent_manifests_are_not_read_again() -> None:
    """Up to a number of rows: the one used longest ago goes first, and what is not there is asked for again."""
    recent = manifest.ManifestCache(rows=6)
    asked: list[str] = []

    def read(key: str, found: Any) -> Any:
        def look() -> Any:
            asked.append(key)
            return found

        return recent.get(key, look)

    for key in ("a", "b", "a", "c", "a", "b"):  # all fit; c is used longest ago
        assert read(key, [BODY, HEAD] if key != "c" else {"": [BODY, HEAD], "x": ""}) is not None
    assert asked == ["a", "b", "c"]
    assert read("d", [BODY, HEAD]) is not None
    assert read("c", [BODY, HEAD]) is not None
    assert read("none", None) is read("none", None) is None
    assert asked == ["a", "b", "c", "d", "c", "none", "none"]
