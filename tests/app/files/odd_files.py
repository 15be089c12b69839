"""Files as odd as people's and worse: JSONL, CSV and Parquet from the fields of every task with any values."""

import decimal
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.app.files.training_files import GOOD, PREFERRED

_FORMS: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "c"},
    {"instruction": "a", "input": "b", "output": "c"},
    {
        "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}],
    },
]
_RECORDS = [record for records in GOOD.values() for record in records] + [PREFERRED, {"text": "a"}, *_FORMS]
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
_TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
_TURNS = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "reasoning_content": "b", "tool_calls": [_CALL]},
    {"role": "tool", "content": "c", "tool_call_id": "c"},
    {"role": "assistant", "content": "d", "name": "e"},
]
_WITH_TOOLS: list[dict[str, Any]] = [
    {"messages": _TURNS, "tools": _TOOLS},
    {
        "input": {"messages": _TURNS[:1], "tools": _TOOLS},
        "preferred_output": _TURNS[1:2],
        "non_preferred_output": _TURNS[3:],
    },
]
_NAMES = sorted({name for record in _RECORDS for name in record} | {"tools", "functions", "", "a b", "\N{SNOWMAN}"})
_INSIDE = [
    "from",
    "value",
    "role",
    "content",
    "weight",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "type",
    "text",
    "bytes",
]
_TEXTS = ["", " ", "a", "user", "assistant", "tool", "text", "{}", "[]", "0", "1.5", "nan", "\0", "\ud83d", "1" * 5000]

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([2**63, 10**400, 10**4000])
    | st.sampled_from(_TEXTS)
    | st.text(max_size=5)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_INSIDE), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def _records(draw: st.DrawFn) -> dict[str, Any]:
    """A good record of some task with up to two fields of another kind."""
    record = dict(draw(st.sampled_from(_RECORDS)))
    for name in draw(st.lists(st.sampled_from([*_NAMES, *record]), max_size=2)):
        record[name] = draw(_values)
    return record


_fine = (
    st.sampled_from(
        ["\u200b", "\ufeff a", "</think> a", "<s>", "{{ a }}", "<|im_end|>", "\u2028", "a\r\nb", "e\u0301", "\x7f"]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
).filter(str.strip)
_FIXED = {"role", "type", "image"}  # and base64


def _with_texts(draw: st.DrawFn, value: Any) -> Any:
    """The value with other texts, each as odd as text may be."""
    if isinstance(value, dict):
        return {key: part if key in _FIXED else _with_texts(draw, part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_texts(draw, part) for part in value]
    return draw(_fine) if isinstance(value, str) else value


@st.composite
def _accepted(draw: st.DrawFn) -> bytes:
    """Four examples of one task, two of them twice, in texts that nobody wrote."""
    record = draw(st.sampled_from([*_RECORDS, *_WITH_TOOLS]))
    return b"\n".join([_line(_with_texts(draw, record)) for _ in range(2)] * 2)


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def _jsonl(draw: st.DrawFn) -> bytes:
    odd = st.binary(max_size=20) | st.sampled_from([b"[", b"{", b"null", b"[" * 99_999, b"9" * 9_999, b'{"a":' * 999])
    good = draw(st.sampled_from(_RECORDS))
    written = draw(st.lists(st.just(_line(good)) | _records().map(_line) | odd, max_size=5))
    return draw(st.sampled_from([b"\n", b"\r\n", b"\r"])).join(written)


@st.composite
def _csv(draw: st.DrawFn) -> bytes:
    cells = st.sampled_from([*_TEXTS[:-2], '"', '""a', '"a,b"', '"a\nb"', "1_000", "x" * 140_000]) | st.text(max_size=4)
    width = draw(st.integers(0, 4))
    header = draw(st.lists(st.sampled_from([*_NAMES, '"text"']), min_size=width, max_size=width))
    rows = draw(st.lists(st.lists(cells, min_size=max(0, width - 1), max_size=width + 1), max_size=5))
    separator, end = draw(st.sampled_from([",", ",", ";"])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join(separator.join(row) for row in [header, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])), "surrogatepass")


_COLUMNS: list[Any] = [
    pa.array(["a", "b", None]),
    pa.array(["a", "b", "a"]).dictionary_encode(),
    pa.array([1, 2, 1]).dictionary_encode(),
    pa.array(["a", "b", "a"], pa.large_string()),
    pa.array(["a", "b", "a"], pa.string_view()),
    pa.array([b"\xff", b"", None]),
    pa.array([b"abcd"] * 3, pa.binary(4)),
    pa.array([0, 1, None]),
    pa.array([2**64 - 1] * 3, pa.uint64()),
    pa.array([0.5, float("nan"), None]),
    pa.array([1.0] * 3, pa.float16()),
    pa.array([True, False, None]),
    pa.nulls(3),
    pa.array([decimal.Decimal("1.5")] * 3),
    pa.array([10**17] * 3, pa.timestamp("ms")),
    pa.array([10**18 + 1] * 3, pa.timestamp("ns")),
    pa.array([1] * 3, pa.duration("ns")),
    pa.array([2**62] * 3, pa.date64()),
    pa.array([["a"], None, []]),
    pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
    pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
    pa.array([{"bytes": b"\x89PNG\r\n\x1a\n", "path": None}] * 3),
    pa.array([[{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]] * 3),
    pa.array([{"messages": [{"role": "user", "content": "a"}]}] * 3),
]


@st.composite
def _parquet(draw: st.DrawFn) -> bytes:
    """A table of odd columns, whole, or damaged in up to three bytes."""
    record = draw(st.sampled_from(_RECORDS))
    names = draw(st.just(list(record)) | st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3))
    table = pa.Table.from_arrays([draw(st.sampled_from(_COLUMNS)) for _ in names], names=names)
    written = io.BytesIO()
    pq.write_table(table, written, compression=draw(st.sampled_from(["none", "snappy", "zstd"])))
    content = bytearray(written.getvalue())
    for at in draw(st.lists(st.integers(4, len(content) - 1), max_size=3)):
        content[at] = draw(st.integers(0, 255))
    return bytes(content)


#: Name and content.
FILES = (
    st.tuples(st.just("f.jsonl"), _jsonl() | _accepted())
    | st.tuples(st.just("f.csv"), _csv())
    | st.tuples(st.just("f.parquet"), _parquet())
)
