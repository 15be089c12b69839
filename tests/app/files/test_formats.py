"""Training files: every task in every format, and every way that a line can be wrong."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DataError
from app.files import formats
from app.files.columns import Columns
from app.files.formats import TASKS, Summary, can_read, detect, infer_task, validate
from app.specs.data import DataSpec
from tests.app.files.training_files import GOOD, found, lines, read


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


def test_summary_of_a_table(put):
    """Widths and the columns that were chosen."""
    path = put("a,b,c,d\n1,2,3,4\n4,5,6,7\n", "t.csv")
    chosen = Columns.of(DataSpec(features=("a", "c"), target=("d", "b")))
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
    with pytest.raises(DataError, match="no field with a value"):
        infer_task(put(lines({}, {"text": None})), "jsonl")
    with pytest.raises(DataError, match="is not JSON"):
        infer_task(put(b'{"text"'), "jsonl")
    with pytest.raises(DataError, match="empty"):
        infer_task(put(b""), "jsonl")


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"txt,label\ngood,a\n", "t.csv", "'text' is missing (did you mean 'txt'?)"),
        (b"text|label\ngood|a\n", "t.csv", "do not seem to be separated by commas"),
        (lines({"anchor": "a", "positve": "b"}), "t.jsonl", "pairs has anchor, positive, and 'positive' is missing"),
    ],
)
def test_fields_that_come_close_are_named(put, content, name, says):
    """The nearest task, and what it lacks."""
    with pytest.raises(DataError) as caught:
        infer_task(put(content, name), detect(name, content))
    assert says in caught.value.message


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"])
def test_packed_files_are_called_what_they_are(head):
    """Whatever their name says."""
    with pytest.raises(DataError, match="inside it"):
        detect("train.jsonl", head + bytes(20))


def test_parquet_is_readable_here():
    """The worker's packages are installed where these tests run."""
    assert can_read("parquet")
    assert can_read("csv")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  "])
def test_empty_files(put, content):
    """Nothing to train on, said so, in every format."""
    assert found(put(content), task="causal-lm") == [(None, None, "empty_file")]


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


def test_columns_belong_to_tables(put):
    """`data` that would be ignored is refused."""
    path = put(lines(*GOOD["tabular-regression"]))
    columns = Columns(("x",), ("y",))
    assert found(path, task="tabular-regression", columns=columns) == [(None, None, "unused_columns")]
    texts = put("text,label\na,x\n", "t.csv")
    assert found(texts, format="csv", task="text-classification", columns=columns) == [(None, None, "unused_columns")]


def test_one_target_for_classes(put):
    """A classification has one answer."""
    path = put("a,b,c\n1,x,y\n", "t.csv")
    columns = Columns(("a",), ("b", "c"))
    assert found(path, format="csv", task="tabular-classification", columns=columns)[0][2] == "too_many_targets"


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


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_time_is_bounded_on_request(tmp_path, format):
    """A file that is not read to its end within the given time is neither good nor bad."""
    path = tmp_path / "data"
    rows = [{"text": "a"}] * 10
    if format == "jsonl":
        path.write_bytes(lines(*rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(formats.OutOfTime):
        validate(path, format=format, task="causal-lm", seconds=-1)
    assert validate(path, format=format, task="causal-lm", seconds=60).examples == 10


@pytest.mark.parametrize("beside", [{"label": "x"}, {"chosen": "y"}])
@pytest.mark.parametrize("fields", [{"prompt": "a", "completion": "b"}, {"messages": []}])
def test_fields_of_two_tasks_are_a_question(put, fields, beside):
    """Text for a causal model with a label beside it: refused with what to leave out, not guessed."""
    with pytest.raises(DataError, match="leave out those beside"):
        infer_task(put(lines(fields | beside)), "jsonl")


KEYS = st.sampled_from(["text", "label", "chosen", "rejected", "prompt", "completion", "messages", "x", "y", "image"])
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800\0"),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS | st.text(st.characters()), values, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(records=st.lists(st.dictionaries(KEYS | st.text(st.characters()), ODD, max_size=4), min_size=1, max_size=4))
def test_no_file_is_answered_by_a_fault_of_ours(tmp_path_factory, records):
    """Whatever the records: a task and a summary, or a refusal that can be sent as JSON."""
    path = tmp_path_factory.mktemp("odd") / "data.jsonl"
    path.write_bytes(b"\n".join(json.dumps(record).encode() for record in records))
    try:
        validate(path, format="jsonl", task=infer_task(path, "jsonl"))
    except DataError as error:
        json.dumps([error.message, error.errors], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("head", "name", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a.parquet", "git lfs pull"),
        (b"PK\x03\x04", "a.xlsx", "save it as CSV"),
        (b"\xd0\xcf\x11\xe0", "a.xls", "save it as CSV"),
        (b"PK\x03\x04", "a.zip", "inside it"),
    ],
)
def test_files_of_other_kinds_say_what_to_do(head, name, says):
    """By their first bytes or their name."""
    with pytest.raises(DataError, match=says):
        detect(name, head)
