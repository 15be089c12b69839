"""CSV files: quotes, headers, ragged rows, numbers as text."""

import csv
import io

import pytest

from app.files.columns import Columns
from app.specs.data import DataSpec
from tests.app.files.training_files import GOOD, found, lines, problems, read


@pytest.mark.parametrize(
    "task", ["text-classification", "text-regression", "text-ranking", "pairs", "preference", "tabular-regression"]
)
def test_flat_tasks_in_csv(put, task):
    """The same records as CSV give the same examples; numbers are read from text."""
    records = [{k: v for k, v in r.items() if k != "text_pair"} for r in GOOD[task]]
    flat = [{"one": r["x"][0], "two": r["x"][1], "y": r["y"]} if "x" in r else r for r in records]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    examples = list(read(put(text.getvalue(), "data.csv"), format="csv", task=task))
    assert examples == list(read(put(lines(*records)), format="jsonl", task=task))


def test_csv_quotes(put):
    """Quoted commas, doubled quotes and line breaks inside a value belong to the value."""
    path = put('text,label\n"a, ""b""\nc",x\nd,y\ne,x\nf,y\n', "t.csv")
    assert next(read(path, format="csv", task="text-classification")) == {"text": 'a, "b"\nc', "label": "x"}


@pytest.mark.parametrize(
    ("text", "columns", "expected", "says"),
    [
        ("a,b,c\n1,2,3\n1,2,x\n", {}, (3, "c", "not_a_number"), "'x'"),
        ("a,b,c\n1,2,3\n1,nan,3\n", {}, (3, "b", "not_finite"), "finite"),
        ("a,b,c\n1,2,3\n1,,3\n", {}, (3, "b", "not_a_number"), "empty"),
        ("a,b,c\n1,2,3\n1,2\n", {}, (3, None, "ragged_row"), "2 values; the header names 3"),
        ("a,b,c\n1,2,3\n1,2,3,4\n", {}, (3, None, "ragged_row"), "4 values"),
        ("a,b,a\n1,2,3\n1,2,3\n", {}, (1, "a", "duplicate_column"), "2 times"),
        ("a,,c\n1,2,3\n", {}, (1, None, "empty_column"), "name every column"),
        ("a,b,c\n1,2,3\n", {"target": "target"}, (1, "target", "missing_column"), "columns are 'a', 'b', 'c'"),
        ("age,bp\n1,2\n", {"features": ["bpp"], "target": "age"}, (1, "bpp", "missing_column"), "did you mean 'bp'"),
        ("a|b|c\n1|2|3\n", {"target": "c"}, (1, "c", "missing_column"), "separated by commas"),
        (",a,b\n0,1,2\n", {}, (1, None, "empty_column"), "index=False"),
        ("a,b,,\n1,2,,\n", {}, (1, None, "empty_column"), "column 3, 4 of 4"),
        ("a;b\n1,5;2\n1;2\n", {}, (2, "a", "not_a_number"), "a point in place of the comma"),
        ("a;b\n1;2;3\n1;2\n", {}, (2, None, "ragged_row"), "a semicolon needs quotes"),
        ("a,b\n1,1e39\n1,2\n", {}, (2, "b", "too_large"), "scale"),
        ("a,b\n1,2\n", {"features": ["a", "a"]}, (None, "a", "duplicate_column"), "twice"),
        ("a\n1\n2\n", {}, (1, None, "missing_column"), "feature"),
        ('a,b\n1,2\n"1"x,2\n', {}, (3, None, "not_csv"), "quotes"),
        ('a,b\n1,2\n"1,2\n' + "1,2\n" * 50_000, {}, (3, None, "not_csv"), "never closed"),
        ('a,b\n1,2\n"\n\nx",2\n1,2\n', {}, (3, "a", "not_a_number"), "it must be a number"),
        ("a,b\n1,1_000\n1,2\n", {}, (2, "b", "not_a_number"), "1_000"),
        ("a,b\n1,2\n\xe9,2\n", {}, (3, None, "not_utf8"), "UTF-8"),
    ],
)
def test_bad_csv(put, text, columns, expected, says):
    """Each mistake of a table by line, column and code, with what would work."""
    path = put(text.encode("latin-1"), "t.csv")
    how = {"format": "csv", "task": "tabular-regression", "columns": Columns.of(DataSpec.from_json(columns))}
    assert expected in found(path, **how)
    (message,) = [e["message"] for e in problems(path, **how) if (e["line"], e["field"], e["code"]) == expected]
    assert says in message


def test_csv_columns_of_a_text_task(put):
    """A missing or extra column is one problem of the header, not one of every row."""
    assert found(put("txt,label\n" + "a,x\n" * 50, "t.csv"), format="csv", task="text-classification") == [
        (1, "text", "missing_column")
    ]
    assert found(put("text,label,id\n" + "a,x,1\n" * 50, "t.csv"), format="csv", task="text-classification") == [
        (1, "id", "unknown_field")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "text;label\r\nthe cat, sat;x\r\na;y\r\nb;x\r\nc;y\r\n",
        '"text";"label"\r\n"the cat, sat";x\r\na;y\r\nb;x\r\nc;y\r\n',
        "text\tlabel\nthe cat, sat\tx\na\ty\nb\tx\nc\ty\n",
        "sep=;\r\ntext;label\r\nthe cat, sat;x\r\na;y\r\nb;x\r\nc;y\r\n",
    ],
)
def test_separators_of_spreadsheets(put, text):
    """Semicolons where a comma is the decimal mark, tabs, and the line that tells Excel; with a byte order mark."""
    path = put("\ufeff" + text, "t.csv")
    assert next(read(path, format="csv", task="text-classification")) == {"text": "the cat, sat", "label": "x"}
    assert [row["text"] for row in read(path, format="csv", task="text-classification")][1:] == ["a", "b", "c"]
