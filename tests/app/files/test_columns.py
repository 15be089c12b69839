"""Which columns of a table a task needs, and which become features and targets."""

from app.files.columns import Columns, chosen, missing, unused


def test_the_last_column_is_the_target() -> None:
    """Unless the job names others; what it names has to be there, once."""
    assert chosen(["a", "b", "y"], Columns(), "tabular-regression") == (Columns(("a", "b"), ("y",)), [])
    named = Columns(("b",), ("a",))
    assert chosen(["a", "b", "y"], named, "tabular-regression") == (named, [])
    _, problems = chosen(["a", "y"], Columns(("a", "a", "x"), ("y",)), "tabular-regression")
    assert [(each.field, each.code) for each in problems] == [("x", "missing_column"), ("a", "duplicate_column")]


def test_columns_that_a_table_cannot_do_without() -> None:
    """A feature beside the target, and one target for classes."""
    assert [each.code for each in chosen(["y"], Columns(), "tabular-regression")[1]] == ["missing_column"]
    two = chosen(["a", "y", "z"], Columns(("a",), ("y", "z")), "tabular-classification")
    assert [each.code for each in two[1]] == ["too_many_targets"]


def test_missing_and_unknown_columns_are_told_once() -> None:
    """With the nearest name; a column that is empty in every row is absent."""
    (problem,) = missing(["text", "lable"], (), "text-classification")
    assert "no column 'label' (did you mean 'lable'?)" in problem.message
    (problem,) = missing(["text", "label", "note"], (), "text-classification")
    assert (problem.field, problem.code) == ("note", "unknown_field")
    assert missing(["text", "label", "note"], ("note",), "text-classification") == []
    (problem, _) = missing(["text|label"], (), "text-classification")
    assert "do not seem to be separated" in problem.message


def test_named_columns_without_a_table() -> None:
    """JSONL and texts have fields of their own."""
    assert unused("csv", "text-classification", Columns()) == []
    assert [each.code for each in unused("jsonl", "tabular-regression", Columns(("a",)))] == ["unused_columns"]
