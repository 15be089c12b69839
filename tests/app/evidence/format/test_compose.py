import hashlib
import io
from typing import BinaryIO

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from app.evidence.format import compose as module
from app.evidence.format.compose import ComposedFile, ComposeError, Slice, compose
from tests.app.evidence import strategies

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def stored(tensors: Tensors) -> tuple[dict[str, bytes], list[Slice]]:
    """The tensors spread over two blobs, with bytes between them that belong to nobody."""
    blobs, slices = {"even": b"??", "odd": b"!"}, []
    for number, (name, (dtype, shape, data)) in enumerate(tensors.items()):
        blob = ("even", "odd")[number % 2]
        slices.append(Slice(name, dtype, shape, blob, len(blobs[blob]), len(data), hashlib.sha256(data).hexdigest()))
        blobs[blob] += data + b"-" * number
    return blobs, slices


def composed(layout: ComposedFile, blobs: dict[str, bytes], start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(layout.stream(lambda key: io.BytesIO(blobs[key]), start, stop))


@given(st.dictionaries(strategies.names, strategies.tensors(), max_size=6), strategies.metadata, st.data())
def test_composes_a_file_and_every_range_of_it(tensors: Tensors, metadata: dict[str, str], data: st.DataObject) -> None:
    """The size is known beforehand, and any byte range is that range of the whole."""
    blobs, slices = stored(tensors)
    layout = compose(slices, metadata)
    whole = composed(layout, blobs)
    assert len(whole) == layout.size
    assert layout.sha256(lambda key: io.BytesIO(blobs[key])) == hashlib.sha256(whole).hexdigest()
    start = data.draw(st.integers(0, layout.size))
    stop = data.draw(st.integers(0, layout.size + 3))
    assert composed(layout, blobs, start, stop) == whole[start:stop]


def test_the_safetensors_library_reads_it_and_would_have_written_it() -> None:
    """Same bytes as the reference writer, for tensors that come from two places."""
    arrays = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.mask": np.array([True, False]),
        "c.half": np.array([-0.0, np.nan], np.float16),
        "a.count": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    codes = {"float32": "F32", "bool": "BOOL", "float16": "F16", "int64": "I64"}
    tensors = {name: (codes[str(a.dtype)], a.shape, a.tobytes()) for name, a in arrays.items()}
    blobs, slices = stored(tensors)
    whole = composed(compose(slices, {"format": "pt"}), blobs)
    assert whole == safetensors.numpy.save(arrays, metadata={"format": "pt"})
    read = safetensors.numpy.load(whole)
    assert {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in read.items()} == {
        name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()
    }


def test_reads_in_chunks_and_closes_what_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk is larger than CHUNK, and a download that is broken off leaves no file open."""
    monkeypatch.setattr(module, "CHUNK", 5)
    opened: list[io.BytesIO] = []
    blobs, slices = stored({"a": ("U8", (12,), b"a" * 12), "b": ("U8", (7,), b"b" * 7)})

    def open_blob(key: str) -> BinaryIO:
        opened.append(io.BytesIO(blobs[key]))
        return opened[-1]

    layout = compose(slices)
    stream = layout.stream(open_blob, len(layout.header))
    assert [next(stream), next(stream), next(stream), next(stream)] == [b"aaaaa", b"aaaaa", b"aa", b"bbbbb"]
    stream.close()  # type: ignore[attr-defined]
    assert len(opened) == 2
    assert all(file.closed for file in opened)


def test_a_range_opens_only_what_it_needs() -> None:
    """A range within one tensor does not touch the other blob."""
    blobs, slices = stored({"a": ("U8", (12,), b"a" * 12), "b": ("U8", (7,), b"b" * 7)})
    layout = compose(slices)
    assert composed(layout, {"odd": blobs["odd"]}, len(layout.header) + 12) == b"b" * 7


def test_refuses_what_makes_no_file() -> None:
    """A name twice, a size that does not fit, a blob that is too short."""
    piece = Slice("a", "F32", (2,), "blob", 0, 8, "0" * 64)
    with pytest.raises(ComposeError, match="'a' is given twice"):
        compose([piece, piece])
    with pytest.raises(ComposeError, match="does not take 8 bytes"):
        compose([Slice("a", "F32", (3,), "blob", 0, 8, "0" * 64)])
    with pytest.raises(ComposeError, match="blob ends before"):
        composed(compose([piece]), {"blob": b"1234567"})
