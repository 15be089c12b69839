"""Examples of each task: what is accepted, and each mistake by field."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DataError
from app.files import formats
from app.files.formats import TASKS, infer_task, validate
from tests.app.files.training_files import CHAT, GOOD, PICTURE, PNG, PREFERRED, found, lines, problems, read


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
        ({"input": PREFERRED["input"] | {"tools": [{}]}}, "input.tools[0].name", "wrong_type"),
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


def test_whole_numbers_are_indices_of_a_given_map(put):
    """Names first; a whole number that is no name is an index."""
    path = put(lines(*({"text": "t", "label": n} for n in (0, 1, 0, 1))))
    named = list(read(path, format="jsonl", task="text-classification", labels=["no", "yes"]))
    assert [example["label"] for example in named] == [0, 1, 0, 1]
    reversed_names = list(read(path, format="jsonl", task="text-classification", labels=["1", "0"]))
    assert [example["label"] for example in reversed_names] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("task", "bad", "field", "code"),
    [
        ("causal-lm", CHAT | {"tools": [7]}, "tools[0]", "wrong_type"),
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
        ("text-ranking", {"query": "a", "document": "b", "score": 3}, "score", "out_of_range"),
        ("text-ranking", {"query": "a", "document": "b", "score": -0.1}, "score", "out_of_range"),
        ("text-ranking", {"query": "a", "document": "b", "score": "1"}, "score", "not_a_number"),
        ("text-ranking", {"query": "a", "document": "b", "label": 1}, "score", "missing_field"),
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
        ("contrastive-image-text", {"text": "a", "image": "https://a.example/b.png"}, "image", "not_a_data_uri"),
        ("contrastive-image-text", {"text": "", "image": PICTURE["image_url"]["url"]}, "text", "empty_value"),
        ("contrastive-image-text", {"caption": "a", "image": PICTURE["image_url"]["url"]}, "caption", "unknown_field"),
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


def test_a_regression_target_is_no_class(monkeypatch, put):
    """Labels without end are a mistake, and must not fill the memory."""
    monkeypatch.setattr("app.files.examples.MAX_LABELS", 10)
    path = put(lines(*({"text": "a", "label": str(n)} for n in range(12))))
    assert (11, "label", "too_many_labels") in found(path, task="text-classification")


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


@pytest.mark.parametrize(
    ("good", "bad", "task", "field"),
    [
        ({"text": "a", "label": "b"}, {"label": "{}"}, "text-classification", "label"),
        ({"tokens": ["a"], "labels": ["b"]}, {"labels": ["{}"]}, "token-classification", "labels[0]"),
        ({"x": [1], "y": "b"}, {"y": "{}"}, "tabular-classification", "y"),
    ],
)
@pytest.mark.parametrize(("character", "code"), [("\ud83d", "not_unicode"), ("\0", "nul_byte")])
def test_labels_are_text_as_texts_are(put, good, bad, task, field, character, code):
    """A label becomes a name in the result's files: with half of an emoji it would fail there, after the training."""
    ((name, value),) = bad.items()
    label = f"b{character}"
    path = put(lines(good, good | {name: [label] if isinstance(value, list) else label}))
    assert (2, field, code) in found(path, task=task)


@pytest.mark.parametrize(
    ("task", "record"),
    [
        ("causal-lm", {"text": "a", "messages": None, "label": None}),
        ("causal-lm", {"messages": [{**turn, "weight": None, "name": None} for turn in CHAT["messages"]]}),
        ("text-classification", {"text": "a", "label": "x", "text_pair": None, "note": None}),
        ("preference", PREFERRED | {"prompt": None, "input": PREFERRED["input"] | {"tools": None, "extra": None}}),
    ],
)
def test_null_is_absent_at_every_depth(put, task, record):
    """Parquet fills structs up with nulls; the example is the one without them."""
    path = put(lines(record))
    assert len(list(read(path, format="jsonl", task=task))) == 1


@pytest.mark.parametrize("label", ["\ud800", "a\0b", "1" * 5_000])
def test_labels_that_are_odd_texts(put, label):
    """Half a surrogate pair and NUL are refused by line; digits without end are a name like any other."""
    rows = [{"text": "a", "label": name} for name in (label, "2") * 2]
    path = put(lines(*rows))
    if label.isdecimal():
        assert formats.validate(path, format="jsonl", task="text-classification").labels == (label, "2")
    else:
        assert (1, "label") in [(line, name) for line, name, _ in found(path, task="text-classification")]


@pytest.mark.parametrize(("task", "field"), [("text-classification", "label"), ("tabular-classification", "y")])
def test_numbers_as_labels_name_the_task_for_them(put, task, field):
    """A base that classifies decides the task, and the file was meant for another."""
    (entry, *_) = problems(put(lines(*({**GOOD[task][0], field: value} for value in (0.5, 1.5)))), task=task)
    assert f"name the task: '{task.replace('classification', 'regression')}'" in entry["message"]


def test_what_is_quoted_from_a_file_is_text(put):
    """A name that is no text is written out, so that the answer can be sent and stored."""
    path = put(lines({"text": "a", "\ud800\0": 1}))
    (problem,) = problems(path, task="causal-lm")
    assert "\\ud800\\x00" in problem["message"] and "\\ud800\\x00" in problem["field"]
    problem["message"].encode()
