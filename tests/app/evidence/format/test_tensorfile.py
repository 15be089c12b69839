import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from app.evidence.format import tensorfile
from app.evidence.format.tensorfile import (
    DTYPE_BITS,
    MAX_HEADER,
    TensorEntry,
    TensorFileError,
    byte_count,
    header_bytes,
    header_length,
    in_file_order,
    parse_header,
)
from tests.app.evidence import strategies

GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [16, 20]},
}
NUMPY = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def parse(header: bytes, *, data: int = 20) -> tensorfile.Header:
    raw = len(header).to_bytes(8, "little") + header
    return parse_header(raw, size=len(raw) + data)


def edited(change: Callable[[Any], Any]) -> bytes:
    document = json.loads(json.dumps(GOOD))
    change(document)
    return json.dumps(document).encode()


@given(
    st.dictionaries(strategies.names, st.tuples(strategies.whole_dtypes, strategies.shapes), max_size=6),
    strategies.metadata,
)
def test_parses_what_it_writes(tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    """Entries, metadata and the start of the data survive a round trip, for any names, dtypes and shapes."""
    entries, at = [], 0
    for name, dtype in in_file_order((name, dtype) for name, (dtype, _) in tensors.items()):
        size = byte_count(dtype, tensors[name][1])
        entries.append(TensorEntry(name, dtype, tensors[name][1], at, at + size))
        at += size
    raw = header_bytes(entries, metadata)
    header = parse_header(raw, size=len(raw) + at)
    assert sorted(header.entries, key=lambda e: e.name) == sorted(entries, key=lambda e: e.name)
    assert header.metadata == metadata
    assert header.data_start == len(raw) == header_length(raw, size=len(raw) + at)
    assert len(raw) % 8 == 0


@given(st.dictionaries(strategies.names, st.tuples(st.sampled_from(sorted(NUMPY)), strategies.shapes), max_size=6))
def test_writes_the_bytes_of_the_reference_writer(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Order, spelling and padding are those of the safetensors library."""
    arrays = {name: np.zeros(shape, NUMPY[dtype]) for name, (dtype, shape) in tensors.items()}
    reference = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    entries, at = [], 0
    for name, dtype in in_file_order((name, dtype) for name, (dtype, _) in tensors.items()):
        entries.append(TensorEntry(name, dtype, tensors[name][1], at, at + arrays[name].nbytes))
        at += arrays[name].nbytes
    assert header_bytes(entries, {"format": "pt"}) + b"\0" * at == reference


# One broken header for each rule, such that no other rule and no reader further on sees anything wrong.
BROKEN: dict[str, tuple[bytes, int]] = {
    "starts_with_brace": (b" " + json.dumps(GOOD).encode(), 20),
    "padded_with_spaces": (json.dumps(GOOD).encode() + b"\n", 20),
    "unique_keys": (json.dumps(GOOD)[:-1].encode() + b',"\\u0062":' + json.dumps(GOOD["b"]).encode() + b"}", 20),
    "short_names": (edited(lambda header: header.update({"b" * 2000: header.pop("b")})), 20),
    "metadata_is_text": (edited(lambda header: header["__metadata__"].update(n=1)), 20),
    "known_fields": (edited(lambda header: header["b"].update(scale=1)), 20),
    "known_dtype": (edited(lambda header: header["b"].update(dtype="F33")), 20),
    "shape_fits": (edited(lambda header: header["b"].update(shape=[5])), 20),
    "no_overlap": (edited(lambda header: header["b"].update(data_offsets=[15, 19])), 19),
    "no_hole": (edited(lambda header: header["b"].update(data_offsets=[17, 21])), 21),
    "not_truncated": (json.dumps(GOOD).encode(), 19),
    "no_trailing_bytes": (json.dumps(GOOD).encode(), 21),
}


@pytest.mark.parametrize("rule", tensorfile.RULES)
def test_every_rule_refuses_and_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that breaks one rule is refused, and accepted once that rule is taken away."""
    header, data = BROKEN[rule]
    with pytest.raises(TensorFileError):
        parse(header, data=data)
    monkeypatch.delitem(tensorfile.RULES, rule)
    assert len(parse(header, data=data).entries) == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        pytest.param(None, "an entry has", id="no object"),
        pytest.param({"dtype": "U8", "data_offsets": [16, 20]}, "an entry has", id="no shape"),
        pytest.param({**GOOD["b"], "dtype": 7}, "dtype is not a string", id="number as dtype"),
        pytest.param({**GOOD["b"], "shape": [True]}, "shape is not a list", id="truth as size"),
        pytest.param({**GOOD["b"], "shape": [-1]}, "shape is not a list", id="negative size"),
        pytest.param({**GOOD["b"], "shape": [4.0]}, "shape is not a list", id="float as size"),
        pytest.param({**GOOD["b"], "shape": [1 << 63, 0]}, "shape is not a list", id="size beyond counting"),
        pytest.param(
            {**GOOD["b"], "data_offsets": [20, 16]}, "data_offsets are not two integers", id="offsets backwards"
        ),
        pytest.param({**GOOD["b"], "data_offsets": [16]}, "data_offsets are not two integers", id="one offset"),
    ],
)
def test_refuses_entries_of_another_form(entry: Any, message: str) -> None:
    """Missing fields and values of the wrong type have no meaning at all; the error says which tensor."""
    with pytest.raises(TensorFileError, match=f"'b': {message}"):
        parse(json.dumps({**GOOD, "b": entry}).encode())


def test_metadata_is_an_object() -> None:
    """A list there would have no keys."""
    with pytest.raises(TensorFileError, match="__metadata__"):
        parse(json.dumps({**GOOD, "__metadata__": []}).encode())


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (b"", 0),
        (b"\1\0\0\0", 4),
        ((1 << 63).to_bytes(8, "little"), 1 << 20),
        ((MAX_HEADER + 1).to_bytes(8, "little"), 1 << 40),
        ((100).to_bytes(8, "little") + b"{}", 10),
        ((0).to_bytes(8, "little"), 8),
        ((2).to_bytes(8, "little") + b"[]", 10),
        ((2).to_bytes(8, "little") + b"{'", 10),
    ],
)
def test_refuses_what_is_no_header(raw: bytes, size: int) -> None:
    """Too short, too long, beyond the file's end, not an object."""
    with pytest.raises(TensorFileError):
        parse_header(raw, size=size)


def test_an_empty_model_is_a_file() -> None:
    """No tensors and no data: the reference library writes such files."""
    reference = safetensors.numpy.save({})
    assert parse_header(reference, size=len(reference)).entries == ()


@given(strategies.tensors(), st.data())
def test_any_damage_to_a_header_is_refused_or_harmless(tensor: Any, data: st.DataObject) -> None:
    """No damaged byte makes the parser fail in another way than by TensorFileError."""
    dtype, shape, content = tensor
    raw = bytearray(header_bytes([TensorEntry("a", dtype, shape, 0, len(content))]))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = parse_header(bytes(raw), size=len(raw) + len(content))
    except TensorFileError:
        return
    assert sum(entry.nbytes for entry in header.entries) <= len(content)


def test_bytes_of_packed_dtypes() -> None:
    """Sub-byte dtypes have to fill whole bytes, as in the reference."""
    assert byte_count("F4", (2, 3)) == 3
    assert byte_count("F6_E2M3", (4,)) == 3
    with pytest.raises(TensorFileError):
        byte_count("F4", (3,))
    with pytest.raises(TensorFileError, match="F33"):
        byte_count("F33", (3,))


def test_reads_every_dtype_of_the_reference_library(tmp_path: Path) -> None:
    """The table has the codes that the library of this version writes."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    codes = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BF16": "bfloat16", "C64": "complex64"}
    codes |= {
        "F16": "float16",
        "F32": "float32",
        "F64": "float64",
        "BOOL": "bool",
        "U8": "uint8",
        "F8_E8M0": "float8_e8m0fnu",
    }
    codes |= {"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"}
    codes |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {
        f"U{bits}": f"uint{bits}" for bits in (16, 32, 64)
    }
    raw = save({code: torch.zeros(2, dtype=getattr(torch, name)) for code, name in codes.items()})
    entries = parse_header(raw, size=len(raw)).entries
    assert {entry.name: entry.dtype for entry in entries} == {code: code for code in codes}
    assert [(e.name, e.dtype) for e in entries] == in_file_order((code, code) for code in codes)
    assert set(codes) < set(DTYPE_BITS)


@pytest.mark.parametrize("shape", [[1 << 62] * 100_000, [1 << 62, 1 << 62, 0], [2, 2, 1 << 40]])
def test_sizes_that_no_file_has(shape: list[int]) -> None:
    """Their product is not worked out in full, which would take minutes. With a zero among them there is nothing."""
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    if 0 in shape:
        assert parse(json.dumps({"a": entry}).encode(), data=0).entries[0].nbytes == 0
        return
    with pytest.raises(TensorFileError, match="does not take 0 bytes") as caught:
        parse(json.dumps({"a": entry}).encode(), data=0)
    assert len(str(caught.value)) < 500


def test_names_have_an_end() -> None:
    """What compares models looks at every prefix of a name; the longest that is taken is far beyond real ones."""
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    for name in ("ü" * 512, ".".join("a" * 64)):
        assert parse(json.dumps({name: entry}).encode(), data=4).entries[0].name == name
    for name in ("ü" * 512 + "a", ".".join("a" * 65)):
        with pytest.raises(TensorFileError, match="1024 bytes and 64 segments"):
            parse(json.dumps({name: entry}).encode(), data=4)


def test_a_git_lfs_pointer_is_named() -> None:
    """What a checkout without Git LFS has in place of a file: its first bytes would be a header of two exabytes."""
    raw = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 440473133\n"
    with pytest.raises(TensorFileError, match=r"a Git LFS pointer.*git lfs pull"):
        header_length(raw, size=len(raw))
