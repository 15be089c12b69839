import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evidence.format.strict import MAX_DEPTH, JsonError, read_json, repeated_keys

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_reads_what_json_writes(value: object) -> None:
    """Anything that is JSON comes back as it was, with no key said to be repeated."""
    try:
        raw = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate, which the next test is about
    read = read_json(raw)
    assert read == value
    assert list(repeated_keys(read)) == []


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"",
            b"{",
            b"{} {}",
            b"NaN",
            b'{"a": Infinity}',
            b"\xff",
            b'"\\ud800"',
            b'{"\\uDFFF": 1}',
            b"[" * 100_000,
            b"1" * 5_000,
        ),
        *(b"\xef\xbb\xbf{}", '"\ud800"'.encode("utf-8", "surrogatepass")),
    ],
)
def test_refuses_what_readers_disagree_on(raw: bytes) -> None:
    """Broken JSON, numbers that JSON has not, broken Unicode, bottomless nesting, endless digits."""
    with pytest.raises(JsonError):
        read_json(raw)


def test_nesting_has_a_limit() -> None:
    """As deep as the limit is read, one more is not: what walks a document recursively is safe."""
    assert read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(JsonError, match="deep"):
        read_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    with pytest.raises(JsonError, match="deep"):
        read_json(b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1))


def test_finds_repeated_keys_wherever_they_are() -> None:
    """Also written with an escape, and below lists; the last value is kept."""
    document = read_json(b'{"a": 1, "\\u0061": 2, "b": [{"c": 1, "c": {"d": 1, "d": 2}}]}')
    assert document["a"] == 2
    assert list(repeated_keys(document)) == ["a", "b[0].c", "b[0].c.d"]
