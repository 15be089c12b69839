"""Files that are one JSON array: as many published data sets, pretty-printed or on one line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.files import json_arrays
from app.files.formats import infer_task
from app.files.lines import read_jsonl
from tests.app.files.training_files import GOOD, found, lines, problems, read


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("task", ["causal-lm", "text-classification", "tabular-regression", "preference"])
def test_an_array_is_read_as_lines_are(put, task, indent):
    """The same examples, however the array is written."""
    path = put(b"\xef\xbb\xbf" + json.dumps(GOOD[task], indent=indent).encode(), "data.json")
    assert list(read(path, format="jsonl", task=task)) == list(read(put(lines(*GOOD[task])), format="jsonl", task=task))
    assert infer_task(path, "jsonl") in (task, "text-classification")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[\n {"text": "a"},\n\n {"text": 3}\n]', (4, "text", "wrong_type")),
        ('[{"text": "a"}, {"text": 3}]', (2, "text", "wrong_type")),
        ('[{"text": "a"} {"text": "b"}]', (1, None, "not_json")),
        ('[{"text": "a"},\n ["b"]]', (2, None, "not_an_object")),
        ('[{"text": "a"},\n {"text": "b"},]', (2, None, "not_an_object")),
        ('[{"text": "a"},\n {"text": "b"}', (2, None, "not_json")),
        ('[{"text": "a"},\n {"text": "b', (2, None, "not_json")),
        ('[\n {"text": "a", "text": "b"}]', (2, "text", "duplicate_key")),
        ("[\n {\"text\": 'a'}]", (2, None, "not_json")),
        ('[{"text": "a"}]\n{"text": "b"}', (2, None, "not_json")),
        ('[\n {"text": "' + "x" * 1_000_000 + '"}]', (2, None, "line_too_long")),
        (b'[\n {"text": "\xe9"}]', (1, None, "not_utf8")),
        ("[]", (None, None, "empty_file")),
        ("[[1, 2]]", (1, None, "not_an_object")),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_by_line(put, content, expected):
    """The line on which an object begins; of an array on one line, which of its objects."""
    path = put(content)
    assert found(path, task="causal-lm") == [expected], problems(path, task="causal-lm")


def test_pieces_of_a_file(put, monkeypatch):
    """Strings, escapes and characters of several bytes may lie across the places where a file is read."""
    rows = [{"text": f'é"[{{\\{"x" * at}', "more": {"a": ["]"]}} for at in range(40)]
    for chunk in (1, 2, 3, 7):
        monkeypatch.setattr(json_arrays, "_CHUNK", chunk)
        items = read_jsonl(put(json.dumps(rows, ensure_ascii=False, indent=1)))
        assert [item[1] for item in items if isinstance(item, tuple)] == rows


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(text=st.text(alphabet='[]{}",: \\\na1é', max_size=20))
def test_any_text_ends_in_records_or_problems(put, text):
    """Never an exception, and never no end."""
    list(read_jsonl(put("[" + text)))
