"""Text lines and JSONL: encodings, line ends, JSON that is not one object per line."""

import json
import tracemalloc

import pytest

from app.files.columns import Columns
from app.files.formats import validate
from tests.app.files.training_files import CHAT, found, lines, problems, read


def test_blank_lines_line_ends_and_a_byte_order_mark(put):
    """What editors add is no problem: BOM, CRLF, blank lines, a missing end of line."""
    path = put(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert list(read(path, format="jsonl", task="causal-lm")) == [{"text": "a"}, {"text": "b"}]
    table = put(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4", "t.csv")
    assert validate(table, format="csv", task="tabular-regression").columns == Columns(("a",), ("b",))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "format"), [("a.jsonl", "jsonl"), ("a.csv", "csv")])
def test_another_encoding_is_one_problem(put, encoding, name, format):
    """With its mark or without, and not a NUL byte in every line."""
    text = '{"text": "a"}\n' * 3 if format == "jsonl" else "text\na\nb\n"
    assert found(put(text.encode(encoding), name), format=format, task="causal-lm") == [(1, None, "not_utf8")]


@pytest.mark.parametrize("indent", [1, 4])
def test_an_object_that_is_spread_out_is_one_problem(put, indent):
    """What people get from a JSON library's pretty printing, unless they print an array."""
    path = put(json.dumps(CHAT, indent=indent))
    assert found(path, task="causal-lm") == [(1, None, "not_json")]


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


def test_lines_may_end_with_carriage_returns_alone(put):
    """As old spreadsheets on a Mac write CSV; lines count as elsewhere."""
    good = put(b"a,b\r1,2\r3,4\r", "good.csv")
    assert list(read(good, format="csv", task="tabular-regression")) == [{"x": [1], "y": [2]}, {"x": [3], "y": [4]}]
    bad = put(b"a,b\r1,2\r3,x\r", "bad.csv")
    assert found(bad, format="csv", task="tabular-regression") == [(3, "b", "not_a_number")]
