"""Training files: every task in every format, and every way that a line can be wrong."""

import base64
import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DataError
from app.files import formats
from app.files.formats import TASKS, Columns, Summary, can_read, detect, infer_task, validate

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}

PREFERRED = {
    "input": {"messages": CHAT["messages"][:1], "tools": []},
    "preferred_output": CHAT["messages"][1:],
    "non_preferred_output": [{"role": "assistant", "content": "no"}],
}

GOOD = {
    "causal-lm": [CHAT, CHAT],
    "text-classification": [{"text": "a", "label": "x"}, {"text": "b", "label": "y", "text_pair": "c"}] * 2,
    "text-regression": [{"text": "a", "label": 1}, {"text": "b", "label": -0.5}],
    "token-classification": [{"tokens": ["a", "b"], "labels": ["O", "X"]}, {"tokens": ["c"], "labels": ["O"]}],
    "pairs": [{"anchor": "a", "positive": "b"}] * 2,
    "preference": [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2,
    "image-classification": [{"image": base64.b64encode(PNG).decode(), "label": n} for n in "abab"],
    "tabular-regression": [{"x": [1, 2.5], "y": 3}, {"x": [0, -1], "y": 4.0}],
    "tabular-classification": [{"x": [1, 2], "y": "a"}, {"x": [0, 1], "y": "b"}] * 2,
}


def lines(*records) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


@pytest.fixture
def put(tmp_path):
    def put(content: bytes | str, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def problems(path: Path, **how) -> list[dict]:
    how = {"format": "jsonl"} | how
    with pytest.raises(DataError) as caught:
        validate(path, **how)
    assert caught.value.code == "invalid_training_data"
    assert caught.value.param == "training_file"
    assert all(set(entry) == {"line", "field", "code", "message"} for entry in caught.value.errors)
    return caught.value.errors


def found(path: Path, **how) -> list[tuple[int | None, str | None, str]]:
    return [(entry["line"], entry["field"], entry["code"]) for entry in problems(path, **how)]


def read(path: Path, **how) -> Iterator[dict]:
    """The examples without their lines."""
    return (example for _, example in formats.read(path, **how))


# ---- good files


@pytest.mark.parametrize("task", TASKS)
def test_each_task_in_jsonl(put, task):
    """A good file is counted, and gives back as many examples, each time the same."""
    path = put(lines(*GOOD[task]))
    summary = validate(path, format="jsonl", task=task)
    assert summary.examples == len(GOOD[task])
    assert summary.bytes == path.stat().st_size
    examples = list(read(path, format="jsonl", task=task))
    assert len(examples) == summary.examples
    assert examples == list(read(path, format="jsonl", task=task))


@pytest.mark.parametrize("task", TASKS)
def test_each_task_in_parquet(tmp_path, task):
    """The same records as a Parquet file give the same examples; images are bytes there."""
    records = [r | ({"image": PNG} if "image" in r else {}) for r in GOOD[task]]
    path, other = tmp_path / "data.parquet", tmp_path / "data.jsonl"
    pq.write_table(
        pa.Table.from_pylist([{"text_pair": None} | r for r in records] if "text" in records[0] else records), path
    )
    other.write_bytes(lines(*GOOD[task]))
    columns = Columns()
    if task.startswith("tabular"):
        flat = [{"one": r["x"][0], "two": r["x"][1], "y": r["y"]} for r in records]
        pq.write_table(pa.Table.from_pylist(flat), path)
    examples = list(read(path, format="parquet", task=task, columns=columns))
    assert examples == list(read(other, format="jsonl", task=task))
    assert validate(path, format="parquet", task=task).examples == len(records)


def test_preferences_as_openai_writes_them(put):
    """A conversation, and one message of the assistant on each side."""
    path = put(lines(PREFERRED, PREFERRED))
    assert infer_task(path, "jsonl") == "preference"
    (example, _) = read(path, format="jsonl", task="preference")
    assert example == {"messages": CHAT["messages"][:1], "chosen": "hello", "rejected": "no"}


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"input": CHAT["messages"]}, "input", "wrong_type"),
        ({"input": PREFERRED["input"] | {"tools": [{}]}}, "input.tools", "unknown_field"),
        ({"input": {"messages": []}}, "input.messages", "wrong_type"),
        ({"preferred_output": CHAT["messages"]}, "preferred_output", "wrong_type"),
        ({"preferred_output": [{"role": "user", "content": "a"}]}, "preferred_output", "wrong_type"),
        (
            {"preferred_output": [{"role": "assistant", "content": ""}]},
            "preferred_output[0].content",
            "empty_value",
        ),
        ({"non_preferred_output": PREFERRED["preferred_output"]}, "non_preferred_output", "no_preference"),
    ],
)
def test_what_is_wrong_with_openai_s_preferences(put, change, field, code):
    """By field, in their own words."""
    path = put(lines(PREFERRED, PREFERRED | change))
    assert (2, field, code) in found(path, task="preference")


@pytest.mark.parametrize(
    "task", ["text-classification", "text-regression", "pairs", "preference", "tabular-regression"]
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


def test_normal_forms(put):
    """What the trainer gets: floats for numbers, a list for targets, indices for labels of a given map."""
    table = put("a,b,c\n1,2,3\n4,5,6\n", "t.csv")
    assert list(read(table, format="csv", task="tabular-regression")) == [
        {"x": [1.0, 2.0], "y": [3.0]},
        {"x": [4.0, 5.0], "y": [6.0]},
    ]
    texts = put(lines(*GOOD["text-classification"]))
    labelled = list(read(texts, format="jsonl", task="text-classification", labels=["y", "x"]))
    assert [example["label"] for example in labelled] == [1, 0, 1, 0]
    assert labelled[1]["text_pair"] == "c"
    image = put(lines(*GOOD["image-classification"]))
    assert next(read(image, format="jsonl", task="image-classification"))["image"] == PNG


def test_summary_of_a_table(put):
    """Widths and the columns that were chosen."""
    path = put("a,b,c,d\n1,2,3,4\n4,5,6,7\n", "t.csv")
    chosen = Columns.from_json({"features": ["a", "c"], "target": ["d", "b"]})
    assert validate(path, format="csv", task="tabular-regression", columns=chosen) == Summary(
        examples=2, labels=None, features=2, targets=2, bytes=path.stat().st_size, columns=chosen
    )
    default = validate(path, format="csv", task="tabular-regression")
    assert default.columns == Columns(("a", "b", "c"), ("d",))
    assert next(read(path, format="csv", task="tabular-regression", columns=chosen)) == {"x": [1, 3], "y": [4, 2]}


def test_width_of_jsonl_tables(put):
    """Widths are known from the examples themselves."""
    path = put(lines({"x": [1, 2, 3], "y": [1, 2]}, {"x": [1, 2, 3], "y": [1, 2]}))
    summary = validate(path, format="jsonl", task="tabular-regression")
    assert (summary.features, summary.targets) == (3, 2)


@pytest.mark.parametrize(
    ("labels", "ordered"), [(["b", "a"], ("a", "b")), ([10, 9], ("9", "10")), (["10", "9"], ("9", "10"))]
)
def test_label_maps_do_not_depend_on_the_order_of_lines(put, labels, ordered):
    """Numbers by size, names by name."""
    records = [{"text": "t", "label": label} for label in labels * 2]
    for some in (records, records[::-1]):
        assert validate(put(lines(*some)), format="jsonl", task="text-classification").labels == ordered


def test_whole_numbers_are_indices_of_a_given_map(put):
    """Names first; a whole number that is no name is an index."""
    path = put(lines(*({"text": "t", "label": n} for n in (0, 1, 0, 1))))
    named = list(read(path, format="jsonl", task="text-classification", labels=["no", "yes"]))
    assert [example["label"] for example in named] == [0, 1, 0, 1]
    reversed_names = list(read(path, format="jsonl", task="text-classification", labels=["1", "0"]))
    assert [example["label"] for example in reversed_names] == [1, 0, 1, 0]


def test_blank_lines_line_ends_and_a_byte_order_mark(put):
    """What editors add is no problem: BOM, CRLF, blank lines, a missing end of line."""
    path = put(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert list(read(path, format="jsonl", task="causal-lm")) == [{"text": "a"}, {"text": "b"}]
    table = put(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4", "t.csv")
    assert validate(table, format="csv", task="tabular-regression").columns == Columns(("a",), ("b",))


def test_csv_quotes(put):
    """Quoted commas, doubled quotes and line breaks inside a value belong to the value."""
    path = put('text,label\n"a, ""b""\nc",x\nd,y\ne,x\nf,y\n', "t.csv")
    assert next(read(path, format="csv", task="text-classification")) == {"text": 'a, "b"\nc', "label": "x"}


def test_a_held_out_file_may_be_small(put):
    """One example, one label, each once: fine for validation, with the labels of training."""
    path = put(lines({"text": "a", "label": "x"}))
    assert validate(path, format="jsonl", task="text-classification", labels=["x", "y"], held_out=True).examples == 1
    assert {code for _, _, code in found(path, task="text-classification")} >= {"too_few_examples", "too_few_labels"}


def test_rare_tags_are_fine(put):
    """A class seen once is a mistake; a tag seen once is language."""
    assert validate(put(lines(*GOOD["token-classification"])), format="jsonl", task="token-classification").labels == (
        "O",
        "X",
    )


# ---- which format, which task


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("a.jsonl", b"", "jsonl"),
        ("a.JSON", b"{}", "jsonl"),
        ("a.csv", b"a;b", "csv"),
        ("upload", b' {"text": 1}', "jsonl"),
        ("upload", b"\xef\xbb\xbf{}", "jsonl"),
        ("upload", b"a,b\n1,2", "csv"),
        ("upload", b"PAR1\x15", "parquet"),
        ("a.jsonl", b"PAR1\x15", "parquet"),
        ("a.parquet", b"PAR1", "parquet"),
    ],
)
def test_detects_the_format(name, head, format):
    """Content first where it is clear, then the name: the SDK calls raw bytes 'upload'."""
    assert detect(name, head) == format


@pytest.mark.parametrize(("name", "head"), [("a.parquet", b"{}"), ("upload", b"hello"), ("a.zip", b"PK\x03\x04,")])
def test_unclear_formats_are_refused(name, head):
    """Neither guessed nor read as something else."""
    with pytest.raises(DataError, match="Parquet"):
        detect(name, head + b"\0")


@pytest.mark.parametrize("task", TASKS)
def test_infers_the_task_from_the_fields(put, task):
    """Every shape names its own task; a number as label or target is a regression."""
    assert infer_task(put(lines(*GOOD[task])), "jsonl") == task


@pytest.mark.parametrize(("cell", "task"), [("1.5", "text-regression"), ("good", "text-classification")])
def test_infers_the_task_of_csv(put, cell, task):
    """Every cell is text there, so numbers are what reads as numbers."""
    assert infer_task(put(f"text,label\na,{cell}\n", "t.csv"), "csv") == task


def test_refuses_to_infer_from_unknown_fields(put):
    """No task fits: the message says which fields there are."""
    with pytest.raises(DataError, match="'question'") as caught:
        infer_task(put(lines({"question": "a", "answer": "b"})), "jsonl")
    assert caught.value.errors[0]["code"] == "unknown_shape"
    with pytest.raises(DataError, match="is not JSON"):
        infer_task(put(b'{"text"'), "jsonl")
    with pytest.raises(DataError, match="empty"):
        infer_task(put(b""), "jsonl")


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"txt,label\ngood,a\n", "t.csv", "'text' is missing (did you mean 'txt'?)"),
        (b"text;label\ngood;a\n", "t.csv", "do not seem to be separated by commas"),
        (lines({"anchor": "a", "positve": "b"}), "t.jsonl", "pairs has anchor, positive, and 'positive' is missing"),
    ],
)
def test_fields_that_come_close_are_named(put, content, name, says):
    """The nearest task, and what it lacks."""
    with pytest.raises(DataError) as caught:
        infer_task(put(content, name), detect(name, content))
    assert says in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "format"), [("a.jsonl", "jsonl"), ("a.csv", "csv")])
def test_another_encoding_is_one_problem(put, encoding, name, format):
    """With its mark or without, and not a NUL byte in every line."""
    text = '{"text": "a"}\n' * 3 if format == "jsonl" else "text\na\nb\n"
    assert found(put(text.encode(encoding), name), format=format, task="causal-lm") == [(1, None, "not_utf8")]


@pytest.mark.parametrize("indent", [1, 4])
@pytest.mark.parametrize("value", [[CHAT, CHAT], CHAT])
def test_json_that_is_spread_out_is_one_problem(put, value, indent):
    """What people get from a JSON library's pretty printing."""
    path = put(json.dumps(value, indent=indent))
    assert found(path, task="causal-lm") == [(1, None, "not_json")]


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"])
def test_packed_files_are_called_what_they_are(head):
    """Whatever their name says."""
    with pytest.raises(DataError, match="inside it"):
        detect("train.jsonl", head + bytes(20))


def test_parquet_is_readable_here():
    """The worker's packages are installed where these tests run."""
    assert can_read("parquet")
    assert can_read("csv")


# ---- bad files


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  "])
def test_empty_files(put, content):
    """Nothing to train on, said so, in every format."""
    assert found(put(content), task="causal-lm") == [(None, None, "empty_file")]


@pytest.mark.parametrize(
    ("bad", "field", "code"),
    [
        (b'{"text": "\xe9"}', None, "not_utf8"),
        (b'{"text": "a\0"}', None, "nul_byte"),
        (b'{"text": "a', None, "not_json"),
        (b'{"text": "a"} {"text": "b"}', None, "not_json"),
        (b'{"text": "a", "text": "b"}', "text", "duplicate_key"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "too_deep"),
        (b'{"text": ' + b"9" * 10_000 + b"}", None, "not_json"),
        (b'[{"text": "a"}]', None, "not_an_object"),
        (b"null", None, "not_an_object"),
        (b'{"txt": "a"}', "text", "missing_field"),
        (b'{"text": null}', "text", "missing_field"),
        (b'{"text": 3}', "text", "wrong_type"),
        (b'{"text": NaN}', "text", "wrong_type"),
        (b'{"text": " "}', "text", "empty_value"),
        (b'{"text": "\\ud800"}', "text", "not_unicode"),
        (b'{"text": "a\\u0000"}', "text", "nul_byte"),
        (b'{"text": "a", "id": 1}', "id", "unknown_field"),
        (b'{"text": "' + b"x" * 1_000_000 + b'"}', None, "line_too_long"),
        (b'{"prompt": "a", "completion": "b"}', "prompt", "mixed_shapes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else None,
)
def test_a_bad_line_is_named_and_the_rest_is_read(put, bad, field, code):
    """One bad line between good ones: its number, its field, its code, and nothing about its neighbours."""
    path = put(lines({"text": "a"}, bad, {"text": "b"}))
    assert (2, field, code) in found(path, task="causal-lm")
    assert {line for line, _, _ in found(path, task="causal-lm")} == {2}


def test_encoding_problems_give_the_byte(put):
    """The offset in the file finds the byte in any editor, also behind a BOM and earlier lines."""
    path = put(b'\xef\xbb\xbf{"text": "a"}\n{"text": "caf\xe9"}\n')
    (entry,) = problems(path, task="causal-lm")
    assert "byte 0xe9 at offset 30 " in entry["message"]
    assert path.read_bytes()[30] == 0xE9


def test_utf16_is_named(put):
    """A common export of spreadsheets gets its own advice."""
    entry = problems(put('{"text": "a"}\n'.encode("utf-16")), task="causal-lm")[0]
    assert "UTF-16" in entry["message"]


@pytest.mark.parametrize(
    ("task", "bad", "field", "code"),
    [
        ("causal-lm", CHAT | {"tools": []}, "tools", "unknown_field"),
        ("causal-lm", {"messages": CHAT["messages"][:1]}, "messages", "nothing_to_learn"),
        ("causal-lm", {"messages": []}, "messages", "wrong_type"),
        ("causal-lm", {"messages": ["hi"]}, "messages[0]", "wrong_type"),
        ("causal-lm", {"messages": [{"role": "asistant", "content": "x"}]}, "messages[0].role", "unknown_role"),
        ("causal-lm", {"messages": [CHAT["messages"][1] | {"weight": 0}]}, "messages", "nothing_to_learn"),
        ("causal-lm", {"messages": [CHAT["messages"][1] | {"weight": 2}]}, "messages[0].weight", "wrong_type"),
        ("causal-lm", {"messages": [CHAT["messages"][0] | {"weight": 1}]}, "messages[0].weight", "unknown_field"),
        ("causal-lm", {"messages": [{"role": "user"}]}, "messages[0].content", "wrong_type"),
        ("causal-lm", {"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x", "unknown_field"),
        ("text-classification", {"text": "a", "label": 1.5}, "label", "wrong_type"),
        ("text-classification", {"text": "a", "label": True}, "label", "wrong_type"),
        ("text-classification", {"text": "a", "label": 3}, "label", "mixed_labels"),
        ("text-classification", {"text": "a", "label": ""}, "label", "empty_value"),
        ("text-classification", {"text": "a", "label": "once"}, "label", "label_seen_once"),
        ("text-classification", {"text": "a", "lable": "x"}, "lable", "unknown_field"),
        ("text-regression", {"text": "a", "label": "high"}, "label", "not_a_number"),
        ("text-regression", {"text": "a", "label": float("nan")}, "label", "not_finite"),
        ("text-regression", {"text": "a", "label": 10**400}, "label", "not_finite"),
        ("text-regression", {"text": "a", "label": True}, "label", "not_a_number"),
        ("token-classification", {"tokens": ["a"], "labels": ["O", "O"]}, "labels", "inconsistent_width"),
        ("token-classification", {"tokens": [], "labels": []}, "tokens", "wrong_type"),
        ("token-classification", {"tokens": ["a", 1], "labels": ["O", "O"]}, "tokens[1]", "wrong_type"),
        ("pairs", {"anchor": "a"}, "positive", "missing_field"),
        ("preference", {"prompt": "p", "chosen": "a", "rejected": "a"}, "rejected", "no_preference"),
        ("preference", {"prompt": "p", "chosen": "a"}, "rejected", "missing_field"),
        ("preference", PREFERRED | {"prompt": "p"}, "prompt", "unknown_field"),
        ("image-classification", {"image": "%%%", "label": "a"}, "image", "not_base64"),
        ("image-classification", {"image": "aGVsbG8=", "label": "a"}, "image", "not_an_image"),
        ("image-classification", {"image": 7, "label": "a"}, "image", "wrong_type"),
        ("tabular-regression", {"x": [1], "y": 1}, "x", "inconsistent_width"),
        ("tabular-regression", {"x": [1, None], "y": 1}, "x[1]", "not_a_number"),
        ("tabular-regression", {"x": [1, float("inf")], "y": 1}, "x[1]", "not_finite"),
        ("tabular-regression", {"x": "1,2", "y": 1}, "x", "wrong_type"),
        ("tabular-regression", {"x": [1, 2], "y": [1, 2]}, "y", "inconsistent_width"),
        ("tabular-regression", {"x": [1, 2], "y": []}, "y", "wrong_type"),
        ("tabular-regression", {"x": [1, 2], "y": "a"}, "y", "not_a_number"),
        ("tabular-classification", {"x": [1, 2], "y": [1]}, "y", "wrong_type"),
    ],
)
def test_bad_examples_of_each_task(put, task, bad, field, code):
    """Each mistake by line, field and code."""
    path = put(lines(*GOOD[task], bad))
    assert (len(GOOD[task]) + 1, field, code) in found(path, task=task)


def test_did_you_mean(put):
    """A misspelt field is told its right name; an unknown label the nearest one."""
    entry = problems(put(lines({"text": "a", "lable": "x"})), task="text-classification")[1]
    assert "did you mean 'label'" in entry["message"]
    path = put(lines(*GOOD["text-classification"]))
    (entry, *_) = problems(path, task="text-classification", labels=["xx", "y"])
    assert (entry["line"], entry["code"]) == (1, "unknown_label")
    assert "did you mean 'xx'" in entry["message"]


def test_too_few_examples_and_labels(put):
    """Nothing can be learned from one example or one class."""
    assert found(put(lines({"text": "a"})), task="causal-lm") == [(None, None, "too_few_examples")]
    one = put(lines(*[{"text": "a", "label": "x"}] * 3))
    assert found(one, task="text-classification") == [(None, None, "too_few_labels")]


def test_a_rare_class_is_named_by_its_column(put):
    """The line and the column of the label that is seen once."""
    path = put("a,kind\n1,x\n2,y\n3,x\n", "t.csv")
    assert found(path, format="csv", task="tabular-classification") == [(3, "kind", "label_seen_once")]
    path = put(lines(*GOOD["tabular-classification"][:3]))
    assert found(path, task="tabular-classification") == [(2, "y", "label_seen_once")]


def test_a_regression_target_is_no_class(monkeypatch, put):
    """Labels without end are a mistake, and must not fill the memory."""
    monkeypatch.setattr("app.files.examples.MAX_LABELS", 10)
    path = put(lines(*({"text": "a", "label": str(n)} for n in range(12))))
    assert (11, "label", "too_many_labels") in found(path, task="text-classification")


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
        ("a;b;c\n1;2;3\n", {"target": "c"}, (1, "c", "missing_column"), "separated by commas"),
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
    how = {"format": "csv", "task": "tabular-regression", "columns": Columns.from_json(columns)}
    assert expected in found(path, **how)
    (message,) = [e["message"] for e in problems(path, **how) if (e["line"], e["field"], e["code"]) == expected]
    assert says in message


def test_columns_belong_to_tables(put):
    """`data` that would be ignored is refused."""
    path = put(lines(*GOOD["tabular-regression"]))
    columns = Columns(("x",), ("y",))
    assert found(path, task="tabular-regression", columns=columns) == [(None, None, "unused_columns")]
    texts = put("text,label\na,x\n", "t.csv")
    assert found(texts, format="csv", task="text-classification", columns=columns) == [(None, None, "unused_columns")]


def test_csv_columns_of_a_text_task(put):
    """A missing or extra column is one problem of the header, not one of every row."""
    assert found(put("txt,label\n" + "a,x\n" * 50, "t.csv"), format="csv", task="text-classification") == [
        (1, "text", "missing_column")
    ]
    assert found(put("text,label,id\n" + "a,x,1\n" * 50, "t.csv"), format="csv", task="text-classification") == [
        (1, "id", "unknown_field")
    ]


def test_one_target_for_classes(put):
    """A classification has one answer."""
    path = put("a,b,c\n1,x,y\n", "t.csv")
    columns = Columns(("a",), ("b", "c"))
    assert found(path, format="csv", task="tabular-classification", columns=columns)[0][2] == "too_many_targets"


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_bad_parquet(tmp_path, damage):
    """A file that is no Parquet, or is cut off, is one clear problem."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [1.0, 2.0]}), path)
    path.write_bytes(b"a,b\n1,2\n" if damage == "text" else path.read_bytes()[:-10])
    assert found(path, format="parquet", task="tabular-regression")[0][2] == "not_parquet"


def test_parquet_that_breaks_in_the_middle(tmp_path):
    """Damaged pages are found where they stand, not in training."""
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [f"text number {n}" for n in range(5000)]})
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    assert "not_parquet" in {code for _, _, code in found(path, format="parquet", task="causal-lm")}


@pytest.mark.parametrize(
    ("columns", "field", "code"),
    [
        ({"a": [1.0, None], "b": [1.0, 2.0]}, "a", "not_a_number"),
        ({"a": [1.0, float("nan")], "b": [1.0, 2.0]}, "a", "not_finite"),
        ({"a": [True, False], "b": [1.0, 2.0]}, "a", "not_a_number"),
        ({"a": ["1", "2"], "b": [1.0, 2.0]}, "a", "not_a_number"),
    ],
)
def test_bad_values_in_parquet(tmp_path, columns, field, code):
    """Nulls, NaN, booleans and text in a numeric column, by row."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    assert (2, field, code) in found(path, format="parquet", task="tabular-regression")


def test_the_first_hundred_problems_and_their_total(put):
    """A file that is wrong throughout gets a bounded answer with the whole count."""
    path = put(lines(*[{"text": 1}] * 1234))
    with pytest.raises(DataError, match=r"1,234 problems.*first 100 are listed.*line 1:") as caught:
        validate(path, format="jsonl", task="causal-lm")
    assert len(caught.value.errors) == 100
    with pytest.raises(DataError) as caught:
        validate(path, format="jsonl", task="causal-lm", max_problems=3, param="validation_file")
    assert (len(caught.value.errors), caught.value.param) == (3, "validation_file")


def test_reading_stops_at_the_first_problem(put):
    """The trainer never sees an example that validation would refuse."""
    examples = read(put(lines({"text": "a"}, {"text": 1})), format="jsonl", task="causal-lm")
    assert next(examples) == {"text": "a"}
    with pytest.raises(DataError, match="line 2: 'text' is a number"):
        next(examples)


def test_unknown_task_and_format(put):
    """Both are named with what there is."""
    path = put(lines({"text": "a"}))
    with pytest.raises(DataError, match="did you mean 'causal-lm'"):
        validate(path, format="jsonl", task="causal_lm")
    with pytest.raises(DataError, match="jsonl, csv, parquet"):
        validate(path, format="yaml", task="causal-lm")


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Validation streams: a file of 20 MB and a line of 30 MB fit in 8 MB."""
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.writelines([lines({"text": "x" * 2000})] * 10_000)
        file.write(b'{"text": "' + b"x" * 30_000_000 + b'"}\n')
    tracemalloc.start()
    try:
        assert found(path, task="causal-lm") == [(10_001, None, "line_too_long")]
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.sampled_from(TASKS), st.sampled_from(["jsonl", "csv"]))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, task, format):
    """No file raises anything but DataError, and what passes validation is read without a problem."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    try:
        summary = validate(path, format=format, task=task)
    except DataError as error:
        assert error.errors
    else:
        assert len(list(read(path, format=format, task=task))) == summary.examples


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "a"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(TASKS), st.data())
@settings(max_examples=200)
def test_any_json_value_in_any_field(tmp_path_factory, task, data):
    """Replace one field of a good example by anything: read, or refused by line."""
    record = dict(GOOD[task][0])
    record[data.draw(st.sampled_from(sorted(record)))] = data.draw(values)
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(lines(*GOOD[task], record))
    try:
        summary = validate(path, format="jsonl", task=task)
    except DataError as error:
        assert {entry["line"] for entry in error.errors} <= {len(GOOD[task]) + 1}
    else:
        assert summary.examples == len(GOOD[task]) + 1
